"""A job as the message that its queue takes."""

from protocol.jobs import Job
from workers.queue.delivery import FIFO_SUFFIX
from workers.queue.letters import Letter


def job_letter(job: Job, queue_url: str) -> Letter:
    """Return the message of a job. On a FIFO queue the jobs of a user id keep their order, and none is taken twice."""
    is_fifo = queue_url.endswith(FIFO_SUFFIX)
    body = job.model_dump_json(exclude_defaults=True)
    return Letter(
        body=body,
        size_bytes=len(body.encode()),
        group_id=(job.userid or job.job_id) if is_fifo else None,
        deduplication_id=job.job_id if is_fifo else None,
    )
