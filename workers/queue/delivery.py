"""A received message: what SQS said of it, the job in its body or why there is none, and its life cycle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NotRequired, TypedDict

from config.engine import ITEMS_PER_SLOT, EngineSettings
from protocol.errors import ErrorCode, SignerError
from protocol.jobs import Job, JobRefusedError, JobType, SignBatchJob, WorkerType, parse_job
from workers.lifecycle import Life, Policy

FIFO_SUFFIX: Final = ".fifo"
"""The name of every FIFO queue ends in it, of no other queue (SQS, CreateQueue)."""


class AttributeValue(TypedDict):
    """A message attribute as SQS hands it out."""

    DataType: str
    StringValue: NotRequired[str]
    BinaryValue: NotRequired[bytes]


class ReceivedMessage(TypedDict):
    """What the engine reads of a received message (SQS API, Message)."""

    MessageId: str
    ReceiptHandle: str
    Body: str
    Attributes: NotRequired[Mapping[str, str]]
    MessageAttributes: NotRequired[Mapping[str, AttributeValue]]


@dataclass(slots=True, eq=False, kw_only=True)
class Delivery:
    """One message under one receipt handle. Never logged whole: it has the body and the handle."""

    life: Life
    arrived_at: float
    """By the engine's clock."""
    message_id: str
    receipt_handle: str = field(repr=False)
    body: str = field(repr=False)
    receive_count: int
    group_id: str | None
    """Only on FIFO queues: a standard queue uses message groups for fairness, not for order."""
    trace_header: str | None
    attributes: Mapping[str, AttributeValue] = field(repr=False)
    job: Job | None
    job_id: str
    job_type: JobType
    userid: str | None
    reply_queue_url: str
    error: SignerError | None
    """Why there is no answer: set from the start when the body is refused."""
    slots: int = 1
    """How many it takes: see `config.engine.EngineSettings.slots`."""
    replies: tuple[str, ...] = field(default=(), repr=False)
    """The reply's JSON once there is one, in as many messages as it takes."""


class MessageReader:
    """Makes deliveries from what a receive brought."""

    def __init__(self, settings: EngineSettings, policy: Policy, job_type: WorkerType) -> None:
        self._settings = settings
        self._policy = policy
        self._job_type = job_type
        self._is_fifo = settings.queue_url.endswith(FIFO_SUFFIX)

    def read(self, message: ReceivedMessage, now: float) -> Delivery:
        """Parse a message. A body that is no job of this queue becomes a delivery with an error, never an exception."""
        message_id, body = message["MessageId"], message["Body"]
        system = message.get("Attributes", {})
        receive_count = int(system.get("ApproximateReceiveCount", "1"))
        job: Job | None = None
        error: SignerError | None = None
        reply_queue_url = self._settings.reply_queue_url
        try:
            parsed = parse_job(body, message_id)
        except JobRefusedError as refused:
            job_id, job_type, userid, error = refused.job_id, refused.job_type, refused.userid, refused.error
        else:
            job_id, job_type, userid = parsed.job_id, parsed.type, parsed.userid
            if parsed.reply_to is not None and not self._settings.allows_reply_to(parsed.reply_to):
                error = SignerError(ErrorCode.BAD_REQUEST, "reply_to: this queue is not allowed")
            else:
                reply_queue_url = parsed.reply_to or reply_queue_url
            if parsed.worker != self._job_type:
                error = SignerError(ErrorCode.WRONG_QUEUE)
            if error is None:
                job = parsed
        return Delivery(
            life=Life(self._policy, receive_count, now),
            arrived_at=now,
            message_id=message_id,
            receipt_handle=message["ReceiptHandle"],
            body=body,
            receive_count=receive_count,
            group_id=system.get("MessageGroupId") if self._is_fifo else None,
            trace_header=system.get("AWSTraceHeader"),
            attributes=message.get("MessageAttributes", {}),
            job=job,
            job_id=job_id,
            job_type=job_type,
            userid=userid,
            reply_queue_url=reply_queue_url,
            error=error,
            slots=-(-len(job.items) // ITEMS_PER_SLOT) if isinstance(job, SignBatchJob) else 1,
        )
