"""Writes the metrics of a worker process: one line each minute, and one at the end."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protocol.clock import Clock
from workers.enclaves.counts import EnclaveCounts
from workers.enclaves.credentials import CredentialSource, seconds_left
from workers.keys.keystore import KeyStore
from workers.queue.engine import Engine
from workers.service.telemetry import INTERVAL_S, Snapshot, WorkerReport
from workers.stage_times import StageTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures come from."""

    engine: Engine
    store: KeyStore
    times: StageTimes
    credentials: CredentialSource
    enclaves: Callable[[], Mapping[str, EnclaveCounts]] | None
    """None when another process of this instance reports them."""

    async def snapshot(self, clock: Clock) -> Snapshot:
        """Look at everything, and begin a new interval of times."""
        status = self.engine.status
        return Snapshot(
            answered=status.answered,
            failures=status.failures,
            settled=status.settled,
            record_cache_hits=self.store.cache_hits,
            record_cache_misses=self.store.cache_misses,
            in_flight=status.in_flight,
            credentials_left_s=await seconds_left(self.credentials, clock),
            times_ms=self.times.take(),
            enclaves=None if self.enclaves is None else self.enclaves(),
        )


class Reporter:
    """One worker process reports by one of these. `clock` gives seconds since the Unix epoch."""

    def __init__(self, role: str, sources: Sources, *, clock: Clock, write_line: Callable[[str], object]) -> None:
        self._report = WorkerReport(role)
        self._sources = sources
        self._clock = clock
        self._write_line = write_line

    async def run(self) -> None:
        """Write a line each minute until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.write()

    async def write(self) -> None:
        """Write the line of the interval that ends here."""
        self._write_line(self._report.take(await self._sources.snapshot(self._clock), self._clock()))
