"""Looks into a dead-letter queue and sends messages back where they came from: receive, send, delete.

SQS has an own call for it (StartMessageMoveTask), but not every server has, and it cannot pick by job id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from config.engine import SQS_BATCH_ENTRIES
from protocol.jobs import JobRefusedError, parse_job
from workers.lifecycle import Event
from workers.queue.delivery import FIFO_SUFFIX, AttributeValue
from workers.queue.letters import REASON_ATTRIBUTES, Letter
from workers.queue.sqs import SqsCalls

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef

HIDDEN_S: Final = 120
"""How long others do not see a letter that is being looked at."""

_WAIT_S: Final = 1
_EMPTY_RECEIVES: Final = 2
"""A receive may miss what is there (SQS developer guide, short and long polling); twice in a row it hardly does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A job that failed for good."""

    message_id: str
    receipt_handle: str = field(repr=False)
    body: str = field(repr=False)
    job_id: str
    job_type: str
    userid: str | None
    error_code: str | None
    """None when SQS itself moved the message here: a worker could not even report it."""
    receive_count: str | None
    """How often a worker had received it."""
    dead_since_ms: int | None
    """Milliseconds since the Unix epoch."""
    group_id: str | None
    trace_header: str | None
    own_attributes: Mapping[str, AttributeValue] = field(repr=False)


async def look(sqs: "SQSClient", queue_url: str, *, at_most: int) -> list[DeadLetter]:
    """Receive what is there; the letters are hidden from others until they are released, or for `HIDDEN_S`."""
    found: dict[str, DeadLetter] = {}
    empty = 0
    while len(found) < at_most and empty < _EMPTY_RECEIVES:
        answer = await sqs.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=min(SQS_BATCH_ENTRIES, at_most - len(found)),
            WaitTimeSeconds=_WAIT_S,
            VisibilityTimeout=HIDDEN_S,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        messages = answer.get("Messages", [])
        letters = [_read(message) for message in messages]
        found |= {letter.message_id: letter for letter in letters}
        empty = 0 if messages else empty + 1
    return list(found.values())


async def release(calls: SqsCalls, queue_url: str, letters: Sequence[DeadLetter]) -> None:
    """Let others see letters again."""
    for start in range(0, len(letters), SQS_BATCH_ENTRIES):
        batch = letters[start : start + SQS_BATCH_ENTRIES]
        await calls.change_visibility(queue_url, [(letter.receipt_handle, 0) for letter in batch])


async def redrive(
    calls: SqsCalls, queue_url: str, letters: Sequence[DeadLetter], target_url: str
) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """Send letters to their queue, and delete those that it has taken; return those, and the others.

    A crash in between leaves a letter on both queues: its job is done twice, with the same result.
    """
    done: list[DeadLetter] = []
    failed: list[DeadLetter] = []
    for letter in letters:  # one by one: a batch has a limit of its size, and these are few
        (sent,) = await calls.send(target_url, [_letter(letter, target_url)])
        if sent is Event.DONE:
            await calls.delete(queue_url, [letter.receipt_handle])
        (done if sent is Event.DONE else failed).append(letter)
    return done, failed


def _read(message: "MessageTypeDef") -> DeadLetter:
    body, message_id = message.get("Body", ""), message.get("MessageId", "")
    attributes = cast("Mapping[str, AttributeValue]", message.get("MessageAttributes", {}))
    system = message.get("Attributes", {})
    try:
        job = parse_job(body, message_id)
    except JobRefusedError as refused:
        job_id, job_type, userid = refused.job_id, refused.job_type, refused.userid
    else:
        job_id, job_type, userid = job.job_id, job.type, job.userid
    sent_at_ms = system.get("SentTimestamp")
    return DeadLetter(
        message_id=message_id,
        receipt_handle=message.get("ReceiptHandle", ""),
        body=body,
        job_id=_text(attributes, "job_id") or job_id,
        job_type=job_type,
        userid=userid,
        error_code=_text(attributes, "error_code"),
        receive_count=_text(attributes, "receive_count"),
        dead_since_ms=None if sent_at_ms is None else int(sent_at_ms),
        group_id=system.get("MessageGroupId"),
        trace_header=system.get("AWSTraceHeader"),
        own_attributes={name: value for name, value in attributes.items() if name not in REASON_ATTRIBUTES},
    )


def _text(attributes: Mapping[str, AttributeValue], name: str) -> str | None:
    return attributes.get(name, AttributeValue(DataType="String")).get("StringValue")


def _letter(letter: DeadLetter, target_url: str) -> Letter:
    try:  # named by the id that it has had, which may have been that of its first message
        body = parse_job(letter.body, letter.job_id).model_dump_json(exclude_defaults=True)
    except JobRefusedError:
        body = letter.body
    is_fifo = target_url.endswith(FIFO_SUFFIX)
    return Letter(
        body=body,
        size_bytes=len(body.encode()),
        attributes=letter.own_attributes,
        trace_header=letter.trace_header,
        group_id=(letter.group_id or letter.userid or "unknown") if is_fifo else None,
        # not the job id: within five minutes of the first try the queue would drop it
        deduplication_id=f"redrive-{letter.message_id}" if is_fifo else None,
    )
