"""The four SQS calls of the engine. Every per-entry result of a batch call is read; nothing here tries again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar, cast

import structlog
from botocore.exceptions import ClientError

from config.engine import SQS_BATCH_ENTRIES
from workers.collector import Call, Collector, no_bytes
from workers.lifecycle import Event
from workers.queue.delivery import ReceivedMessage
from workers.queue.letters import Letter

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        ChangeMessageVisibilityBatchResultTypeDef,
        DeleteMessageBatchResultTypeDef,
        MessageAttributeValueTypeDef,
        SendMessageBatchRequestEntryTypeDef,
        SendMessageBatchResultTypeDef,
    )

    BatchResult = (
        SendMessageBatchResultTypeDef | DeleteMessageBatchResultTypeDef | ChangeMessageVisibilityBatchResultTypeDef
    )

SYSTEM_ATTRIBUTES: Final = ("ApproximateReceiveCount", "MessageGroupId", "AWSTraceHeader")

EntryT = TypeVar("EntryT")

log = structlog.get_logger()


class QueueError(Exception):
    """A call failed as a whole; `code` is SQS's own, or the name of the exception when nothing answered."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class SqsCalls:
    """The calls, on any queue that the client's credentials reach.

    Batch calls take at most ten entries and return one event for each, in their order: `DONE`; `BROKE` when the entry
    may be tried again; `UNDONE` when SQS blames the entry. They raise nothing: when the whole call fails, all entries
    broke.

    Attributes:
        trouble: the code of the last failure of a batch call or of an entry; None when there was none.
    """

    def __init__(self, client: "SQSClient", call_timeout_s: float) -> None:
        self._client = client
        self._call_timeout_s = call_timeout_s
        self.trouble: str | None = None

    async def receive(
        self, queue_url: str, count: int, wait_time_s: int, visibility_timeout_s: int
    ) -> list[ReceivedMessage]:
        """Receive up to `count` messages, waiting up to `wait_time_s` for the first.

        Raises:
            QueueError: the queue or the way to it fails.
        """
        try:
            async with asyncio.timeout(wait_time_s + self._call_timeout_s):
                answer = await self._client.receive_message(
                    QueueUrl=queue_url,
                    MaxNumberOfMessages=count,
                    WaitTimeSeconds=wait_time_s,
                    VisibilityTimeout=visibility_timeout_s,
                    MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
                    MessageAttributeNames=("All",),
                )
        except Exception as error:  # the SDK lets through what its parsers and its sources of credentials raise
            raise QueueError(_error_code(error)) from error
        return cast("list[ReceivedMessage]", answer.get("Messages", []))  # AWS's types have no required field

    async def send(self, queue_url: str, letters: Sequence[Letter]) -> list[Event]:
        """Send messages; the caller keeps the sum of their sizes within the limit of a batch."""
        entries = [_send_entry(position, letter) for position, letter in enumerate(letters)]
        return await self._batch(
            queue_url, len(entries), lambda: self._client.send_message_batch(QueueUrl=queue_url, Entries=entries)
        )

    async def delete(self, queue_url: str, receipt_handles: Sequence[str]) -> list[Event]:
        """Delete messages."""
        return await self._batch(
            queue_url,
            len(receipt_handles),
            lambda: self._client.delete_message_batch(
                QueueUrl=queue_url,
                Entries=[{"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(receipt_handles)],
            ),
        )

    async def change_visibility(self, queue_url: str, changes: Sequence[tuple[str, int]]) -> list[Event]:
        """Hide messages for so many seconds from now: receipt handle and seconds; 0 gives a message back."""
        return await self._batch(
            queue_url,
            len(changes),
            lambda: self._client.change_message_visibility_batch(
                QueueUrl=queue_url,
                Entries=[
                    {"Id": str(i), "ReceiptHandle": handle, "VisibilityTimeout": timeout_s}
                    for i, (handle, timeout_s) in enumerate(changes)
                ],
            ),
        )

    async def _batch(self, queue_url: str, count: int, call: Callable[[], Awaitable["BatchResult"]]) -> list[Event]:
        try:
            async with asyncio.timeout(self._call_timeout_s):
                answer = await call()
        except Exception as error:  # noqa: BLE001 - as above; one failed call must not end the engine
            self.trouble = _error_code(error)
            log.warning("batch_call_failed", queue=queue_name(queue_url), code=self.trouble, count=count)
            return [Event.BROKE] * count
        succeeded, failed = answer.get("Successful", []), answer.get("Failed", [])
        if len(succeeded) == count and not failed:
            return [Event.DONE] * count
        events = [Event.BROKE] * count  # an entry in neither list is not done either
        for entry in succeeded:
            events[int(entry["Id"])] = Event.DONE
        for problem in failed:
            events[int(problem["Id"])] = _failed_entry(problem)
            self.trouble = problem["Code"]
            log.warning("batch_entry_failed", queue=queue_name(queue_url), code=problem["Code"])
        return events


def entry_collector(
    call: Call[EntryT, Event],
    group: asyncio.TaskGroup,
    *,
    wait_s: float,
    max_bytes: int = 0,
    weigh: Callable[[EntryT], int] = no_bytes,
) -> Collector[EntryT, Event]:
    """Return what collects the entries of one batch call on one queue. One over `max_bytes` is `UNDONE` uncalled."""
    return Collector(
        call,
        group,
        max_items=SQS_BATCH_ENTRIES,
        wait_s=wait_s,
        max_bytes=max_bytes,
        weigh=weigh,
        too_large=Event.UNDONE,
        failed=Event.BROKE,
    )


def queue_name(url: str) -> str:
    """Return the name of a queue, for logs: an account id is nobody's business there."""
    return url.rsplit("/", 1)[-1]


def _send_entry(position: int, letter: Letter) -> "SendMessageBatchRequestEntryTypeDef":
    # The id is the position: a message id stands twice in a batch when a message was delivered twice.
    entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(position), "MessageBody": letter.body}
    if letter.attributes:
        entry["MessageAttributes"] = cast("Mapping[str, MessageAttributeValueTypeDef]", letter.attributes)
    if letter.trace_header is not None:
        entry["MessageSystemAttributes"] = {
            "AWSTraceHeader": {"DataType": "String", "StringValue": letter.trace_header}
        }
    if letter.group_id is not None and letter.deduplication_id is not None:
        entry["MessageGroupId"] = letter.group_id
        entry["MessageDeduplicationId"] = letter.deduplication_id
    return entry


def _failed_entry(problem: "BatchResultErrorEntryTypeDef") -> Event:
    is_throttled = "hrottl" in problem["Code"]  # RequestThrottled and ThrottlingException blame the sender too
    return Event.UNDONE if problem["SenderFault"] and not is_throttled else Event.BROKE


def _error_code(error: Exception) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__
