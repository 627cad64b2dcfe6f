"""The one owner of heartbeats: extends what is in flight, and learns which receipt handles are no longer ours."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from config.engine import SQS_BATCH_ENTRIES, EngineSettings
from protocol.clock import Clock
from workers.lifecycle import Event
from workers.queue.delivery import Delivery
from workers.queue.ledger import Ledger, Work
from workers.queue.sqs import SqsCalls, queue_name

_LOOKS_PER_BEAT = 4
"""How often the ledger is looked through; a heartbeat is late by at most a quarter of its interval."""

log = structlog.get_logger()


class VisibilityKeeper:
    """Sends heartbeats in batches. Settlements that waited for one go to `perform`."""

    def __init__(
        self,
        settings: EngineSettings,
        calls: SqsCalls,
        ledger: Ledger,
        group: asyncio.TaskGroup,
        *,
        perform: Callable[[Work], None],
        clock: Clock,
    ) -> None:
        self._queue_url = settings.queue_url
        self._look_every_s = settings.beat_interval_s / _LOOKS_PER_BEAT
        self._calls = calls
        self._ledger = ledger
        self._group = group
        self._perform = perform
        self._clock = clock

    async def run(self) -> None:
        """Look for due heartbeats until cancelled."""
        while True:
            await asyncio.sleep(self._look_every_s)
            now = self._clock()
            due = self._ledger.beats(now)
            for start in range(0, len(due), SQS_BATCH_ENTRIES):
                self._group.create_task(self._beat(due[start : start + SQS_BATCH_ENTRIES], now), name="heartbeat")

    async def _beat(self, due: Sequence[tuple[Delivery, int]], asked_at: float) -> None:
        changes = [(delivery.receipt_handle, timeout_s) for delivery, timeout_s in due]
        events = await self._calls.change_visibility(self._queue_url, changes)
        for (delivery, _), event in zip(due, events, strict=True):
            if event is Event.UNDONE:
                log.warning(
                    "heartbeat_lost",
                    queue=queue_name(self._queue_url),
                    job_id=delivery.job_id,
                    message_id=delivery.message_id,
                    receive_count=delivery.receive_count,
                )
        ended = [(delivery, timeout_s, event) for (delivery, timeout_s), event in zip(due, events, strict=True)]
        self._perform(self._ledger.beat_ended(ended, asked_at, self._clock()))
