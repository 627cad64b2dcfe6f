"""The way to the queues and back: jobs go out in batches, replies come in while somebody waits for one."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from config.engine import SQS_BATCH_ENTRIES
from protocol.errors import ErrorCode
from protocol.jobs import Job
from workers.client.desk import ReplyDesk
from workers.client.errors import NoAnswerError
from workers.client.reply_queue import VISIBILITY_TIMEOUT_S
from workers.client.settings import ClientSettings
from workers.lifecycle import Event
from workers.queue.job_letter import job_letter
from workers.queue.letters import Letter
from workers.queue.sqs import QueueError, SqsCalls, entry_collector, queue_name

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

_PAUSE_BASE_S: Final = 0.1
_PAUSE_CAP_S: Final = 5.0
_MS: Final = 1000


class Mailbox:
    """Sends jobs and takes replies, in `group`. `run_poller` is run as often as there are to be receives at once.

    Attributes:
        trouble: why the last receive failed, in SQS's own code; None after one that did not.
    """

    def __init__(
        self,
        sqs: "SQSClient",
        settings: ClientSettings,
        reply_queue_url: str,
        desk: ReplyDesk,
        group: asyncio.TaskGroup,
    ) -> None:
        self._settings = settings
        self._calls = SqsCalls(sqs, settings.call_timeout_s)
        self._reply_queue_url = reply_queue_url
        self._desk = desk
        self._sends = {
            queue_url: entry_collector(
                partial(self._calls.send, queue_url),
                group,
                wait_s=settings.flush_ms / _MS,
                max_bytes=settings.max_batch_bytes,
                weigh=_size,
            )
            for queue_url in (settings.generate_queue_url, settings.sign_queue_url)
        }
        self.trouble: str | None = None

    async def send(self, job: Job) -> None:
        """Put a job on its queue.

        Raises:
            NoAnswerError: `queue_unavailable`, the queue has not taken it.
        """
        settings = self._settings
        queue_url = settings.generate_queue_url if job.type == "generate" else settings.sign_queue_url
        letter = job_letter(job, queue_url)
        event = Event.BROKE
        for attempt in range(settings.call_tries):
            if attempt:  # a job that is sent twice is done twice, to the same result; the second reply is dropped
                await asyncio.sleep(min(_PAUSE_CAP_S, _PAUSE_BASE_S * 2**attempt))
            (event,) = await self._sends[queue_url].submit([letter])
            if event is not Event.BROKE:
                break
        if event is not Event.DONE:
            detail = f"the queue {queue_name(queue_url)} does not take the job: {self._calls.trouble}"
            raise NoAnswerError(ErrorCode.QUEUE_UNAVAILABLE, detail, job_id=job.job_id)

    async def run_poller(self) -> None:
        """Receive for as long as calls wait; never returns, and raises nothing: who waits has a deadline."""
        failures = 0
        while True:
            await self._desk.busy.wait()
            if failures:
                await asyncio.sleep(min(_PAUSE_CAP_S, _PAUSE_BASE_S * 2**failures))
            try:
                await self._poll()
            except QueueError as error:
                self.trouble = error.code
                failures += 1
            else:
                self.trouble = None
                failures = 0

    async def _poll(self) -> None:
        messages = await self._calls.receive(
            self._reply_queue_url, SQS_BATCH_ENTRIES, self._settings.wait_time_s, VISIBILITY_TIMEOUT_S
        )
        for message in messages:
            self._desk.take(message["Body"])
        if messages:  # a reply that cannot be deleted comes again, and is then unknown
            await self._calls.delete(self._reply_queue_url, [message["ReceiptHandle"] for message in messages])


def _size(letter: Letter) -> int:
    return letter.size_bytes
