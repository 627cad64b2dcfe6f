"""Celery with kombu's SQS transport, set up as its documentation shows; the task answers with boto3."""

import boto3
from celery import Celery

from benchmarks.peers.work import CLIENT, PORT, REGION, answer, fill_as_asked, queue_url, reply_url

QUEUE = "celery-jobs"

app = Celery("benchmark", broker=f"sqs://local:local@127.0.0.1:{PORT}//")
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "region": REGION,
        "is_secure": False,
        "wait_time_seconds": 1,
        "polling_interval": 0.1,
        "predefined_queues": {QUEUE: {"url": queue_url(QUEUE), "access_key_id": "local", "secret_access_key": "local"}},
    },
)
sqs = boto3.client("sqs", **CLIENT)


@app.task(name="job")
def job(kind: str, number: int) -> None:
    """Do one job and reply."""
    sqs.send_message(QueueUrl=reply_url("celery"), MessageBody=answer(kind, number))


if __name__ == "__main__":
    fill_as_asked(job.delay)
