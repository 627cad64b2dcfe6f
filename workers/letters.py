"""What the engine sends: replies, and copies for the dead-letter queue with the reason in attributes. Pure.

Sizes are counted as SQS does: the body, and name, type and value of each message attribute, in bytes of UTF-8. The
AWSTraceHeader is a system attribute and counts for nothing (SQS developer guide, "message metadata").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import SignerError
from protocol.jobs import ErrorReply
from workers.delivery import FIFO_SUFFIX, AttributeValue, Delivery

MAX_ATTRIBUTES: Final = 10
"""Message attributes of one message (SQS quotas)."""

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


def reply_letter(delivery: Delivery, reply: str) -> Letter:
    """Return the message that answers a job. On a FIFO queue a repeated answer is dropped by its job id."""
    is_fifo = delivery.reply_queue_url.endswith(FIFO_SUFFIX)
    return Letter(
        body=reply,
        size_bytes=_utf8_bytes(reply),
        trace_header=delivery.trace_header,
        group_id=(delivery.userid or _NO_USER) if is_fifo else None,
        deduplication_id=delivery.job_id if is_fifo else None,
    )


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
    reasons = {name for name, _ in wanted}
    own = sorted(delivery.attributes.items())
    wanted.extend((name, value) for name, value in own if name not in reasons)
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
