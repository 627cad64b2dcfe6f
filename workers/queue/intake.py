"""Receiving: slots first, then a poll; more pollers on a busy queue, one on an empty one; back-off when SQS fails.

A poll is never cut short for a drain: SQS would answer it all the same, and its messages would wait out their
visibility timeout unseen (aws-sdk-js #2350). It may run to its end, and what it brings is given back.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from config.engine import SQS_BATCH_ENTRIES, EngineSettings
from protocol.clock import Clock
from workers.lifecycle import full_jitter_ceiling
from workers.queue.delivery import Delivery, MessageReader, ReceivedMessage
from workers.queue.gate import Gate
from workers.queue.slots import Slots
from workers.queue.sqs import QueueError, SqsCalls, queue_name
from workers.queue.stopping import InterruptedWaitError, Interrupts

_BACKOFF_BASE_S = 0.2

log = structlog.get_logger()


class Intake:
    """Brings messages to `arrived`, each with a slot taken for it.

    Attributes:
        last_poll_at: when a poll last succeeded, by the clock; at first, when this was made.
    """

    def __init__(
        self,
        settings: EngineSettings,
        calls: SqsCalls,
        reader: MessageReader,
        slots: Slots,
        gate: Gate,
        *,
        arrived: Callable[[Sequence[Delivery]], None],
        clock: Clock,
        uniform: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._calls = calls
        self._reader = reader
        self._slots = slots
        self._gate = gate
        self._arrived = arrived
        self._clock = clock
        self._uniform = uniform
        self._waits = Interrupts()
        self._polls = Interrupts()
        self._busy = asyncio.Event()
        self.last_poll_at = clock()

    def drain(self) -> None:
        """Begin no further poll; those that run may end."""
        self._waits.interrupt()

    def stop(self) -> None:
        """Abandon the polls that run: what SQS still answers them comes again after its visibility timeout."""
        self._polls.interrupt()

    async def run(self) -> None:
        """Poll until a drain, and return when the last poll has ended."""
        async with asyncio.TaskGroup() as pollers:
            pollers.create_task(self._poll_until_drain(always=True), name="poller")
            for _ in range(1, self._settings.pollers):
                pollers.create_task(self._poll_until_drain(always=False), name="poller")

    async def _poll_until_drain(self, *, always: bool) -> None:
        failures = 0
        try:
            while True:
                if failures:
                    await self._waits.run(partial(self._back_off, failures))
                if not always:
                    await self._waits.run(self._busy.wait)
                taken = await self._waits.run(self._take_slots)
                failures = failures + 1 if not await self._poll(taken) else 0
        except InterruptedWaitError:
            return

    async def _take_slots(self) -> int:
        while True:
            await self._gate.wait_open()
            taken = await self._slots.take(min(SQS_BATCH_ENTRIES, self._settings.slots))
            if self._gate.is_open:
                return taken
            self._slots.give_back(taken)

    async def _poll(self, taken: int) -> bool:
        """Receive once into slots that are taken, and give back those that stay empty. Return whether it succeeded."""
        messages: list[ReceivedMessage] = []
        try:
            messages = await self._polls.run(lambda: self._receive(taken))
        except QueueError as error:
            log.warning("receive_failed", queue=queue_name(self._settings.queue_url), code=error.code)
            return False
        finally:
            if len(messages) < taken:
                self._slots.give_back(taken - len(messages))
        now = self.last_poll_at = self._clock()
        if not messages:
            self._busy.clear()
            return True
        if len(messages) == taken:
            self._busy.set()
        self._arrived([self._reader.read(message, now) for message in messages])
        return True

    async def _receive(self, count: int) -> list[ReceivedMessage]:
        settings = self._settings
        return await self._calls.receive(settings.queue_url, count, settings.wait_time_s, settings.visibility_timeout_s)

    async def _back_off(self, failures: int) -> None:
        ceiling = full_jitter_ceiling(_BACKOFF_BASE_S, self._settings.receive_backoff_cap_s, failures)
        await asyncio.sleep(self._uniform() * ceiling)
