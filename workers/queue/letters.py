"""What the engine sends: replies, and copies for the dead-letter queue with the reason in attributes. Pure.

Sizes are counted as SQS does: the body, and name, type and value of each message attribute, in bytes of UTF-8. The
AWSTraceHeader is a system attribute and counts for nothing (SQS developer guide, "message metadata").
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import SignerError
from protocol.jobs import BatchResult, ErrorReply, GenerateReply, SignBatchReply, SignReply
from workers.queue.delivery import FIFO_SUFFIX, AttributeValue, Delivery

MAX_ATTRIBUTES: Final = 10
"""Message attributes of one message (SQS quotas)."""

REASON_ATTRIBUTES: Final = ("error_code", "job_id", "source_queue", "receive_count", "source_message_id")
"""What a dead letter says of itself."""

_NO_USER: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message to be sent, and how many bytes of the limit it takes."""

    body: str = field(repr=False)
    size_bytes: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict, repr=False)
    trace_header: str | None = None
    group_id: str | None = None
    """Group and deduplication id are for FIFO queues, both or none."""
    deduplication_id: str | None = None


def error_reply(delivery: Delivery, error: SignerError) -> str:
    """Return the JSON of an error reply."""
    return ErrorReply.of(delivery.job_type, delivery.job_id, delivery.userid, error).model_dump_json()


def reply_bodies(reply: GenerateReply | SignReply | SignBatchReply, max_bytes: int) -> tuple[str, ...]:
    """Return the JSON of a reply: one body, or several for the results of a bulk job that are too many for one."""
    whole = reply.model_dump_json()
    if not isinstance(reply, SignBatchReply) or _utf8_bytes(whole) <= max_bytes:
        return (whole,)
    count = len(reply.results)
    frame = reply.model_copy(update={"results": (), "part": count, "parts": count})  # as long as it can get
    room_bytes = max_bytes - _utf8_bytes(frame.model_dump_json())
    parts: list[list[BatchResult]] = [[]]
    left_bytes = room_bytes
    for result in reply.results:
        size_bytes = _utf8_bytes(result.model_dump_json()) + len(",")
        if size_bytes > left_bytes and parts[-1]:
            parts.append([])
            left_bytes = room_bytes
        parts[-1].append(result)
        left_bytes -= size_bytes
    return tuple(
        reply.model_copy(update={"results": tuple(results), "part": number, "parts": len(parts)}).model_dump_json()
        for number, results in enumerate(parts, start=1)
    )


def reply_letters(delivery: Delivery, replies: Sequence[str]) -> list[Letter]:
    """Return the messages that answer a job. A FIFO queue drops one that is sent again for the same message."""
    is_fifo = delivery.reply_queue_url.endswith(FIFO_SUFFIX)
    return [
        Letter(
            body=reply,
            size_bytes=_utf8_bytes(reply),
            trace_header=delivery.trace_header,
            group_id=(delivery.userid or _NO_USER) if is_fifo else None,
            deduplication_id=_deduplication_id(delivery.message_id, reply) if is_fifo else None,
        )
        for reply in replies
    ]


def _deduplication_id(message_id: str, reply: str) -> str:
    """Return what only the same reply to the same message has.

    A job id would not do: it comes again when a failed job is redriven, and two clients may choose the same one. SQS
    would then take the later reply, drop it, and say that it was accepted.
    """
    return hashlib.sha256(f"{message_id} {reply}".encode()).hexdigest()


def dead_letter(delivery: Delivery, error: SignerError, *, source_url: str, target_url: str, max_bytes: int) -> Letter:
    """Return the copy of a message for the dead-letter queue: its body, the reason, and its own attributes.

    At most ten attributes fit, and the whole at most `max_bytes`: the reason comes first, the message's own attributes
    fill what is left, and the body is never cut.
    """
    wanted: list[tuple[str, AttributeValue]] = [
        ("error_code", _text(error.code)),
        ("job_id", _text(delivery.job_id)),
        ("source_queue", _text(source_url.rsplit("/", 1)[-1])),
        ("receive_count", {"DataType": "Number", "StringValue": str(delivery.receive_count)}),
        ("source_message_id", _text(delivery.message_id)),
    ]
    own = sorted(delivery.attributes.items())
    wanted.extend((name, value) for name, value in own if name not in REASON_ATTRIBUTES)
    attributes: dict[str, AttributeValue] = {}
    size_bytes = _utf8_bytes(delivery.body)
    for name, value in wanted:
        attribute_bytes = _attribute_bytes(name, value)
        if len(attributes) < MAX_ATTRIBUTES and size_bytes + attribute_bytes <= max_bytes:
            attributes[name] = value
            size_bytes += attribute_bytes
    is_fifo = target_url.endswith(FIFO_SUFFIX)
    return Letter(
        body=delivery.body,
        size_bytes=size_bytes,
        attributes=attributes,
        trace_header=delivery.trace_header,
        group_id=(delivery.group_id or delivery.userid or _NO_USER) if is_fifo else None,
        deduplication_id=delivery.message_id if is_fifo else None,
    )


def _text(value: str) -> AttributeValue:
    return {"DataType": "String", "StringValue": value}


def _attribute_bytes(name: str, value: AttributeValue) -> int:
    value_bytes = _utf8_bytes(value.get("StringValue", "")) + len(value.get("BinaryValue", b""))
    return _utf8_bytes(name) + _utf8_bytes(value["DataType"]) + value_bytes


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
