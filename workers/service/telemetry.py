"""The metrics of one worker process: what it counted since the last report, as one line a minute. Pure.

Counts of an enclave are those of the enclave, and every worker process of an instance sees the same ones. So one of
them reports them, else they would be counted as often as there are processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import ErrorCode
from workers.embedded_metrics import embedded_line
from workers.enclaves.counts import EnclaveCounts
from workers.lifecycle import FINAL, State
from workers.stage_times import Stage

NAMESPACE: Final = "NitroSigner/Worker"
INTERVAL_S: Final = 60.0

ENCLAVE_COUNTERS: Final = {
    "signatures": "EnclaveSignatures",
    "keys_generated": "EnclaveKeys",
    "kms_calls": "KmsCalls",
    "kms_throttles": "KmsThrottles",
    "cache_hits": "KeyCacheHits",
    "cache_misses": "KeyCacheMisses",
}
"""Metric of each counter that an enclave process keeps (`protocol.messages.StatusResult`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a worker process has counted since it started, and how it is now."""

    answered: int
    failures: Mapping[ErrorCode, int]
    settled: Mapping[State, int]
    record_cache_hits: int
    record_cache_misses: int
    in_flight: int
    credentials_left_s: float | None
    """None when they do not expire."""
    times_ms: Mapping[Stage, list[float]] = field(default_factory=dict[Stage, list[float]])
    """Of the interval that ends here."""
    enclaves: Mapping[str, EnclaveCounts] | None = None
    """By address; None when another process reports them."""


class WorkerReport:
    """Turns snapshots into one line of embedded metrics an interval."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._reported: Mapping[str, int] = {}
        self._enclaves: Mapping[str, EnclaveCounts] = {}

    def take(self, snapshot: Snapshot, now_s: float) -> str:
        """Return the line of the interval that ends here.

        Args:
            snapshot: of this moment.
            now_s: seconds since the Unix epoch.
        """
        totals = _totals(snapshot)
        values: dict[str, int | float | list[float]] = {
            name: total - self._reported.get(name, 0) for name, total in totals.items()
        }
        self._reported = totals
        if snapshot.enclaves is not None:
            values |= self._of_enclaves(snapshot.enclaves)
        values["InFlight"] = snapshot.in_flight
        units = dict.fromkeys(values, "Count")
        if snapshot.credentials_left_s is not None:
            values["CredentialsLeft"] = round(snapshot.credentials_left_s)
            units["CredentialsLeft"] = "Seconds"
        for stage, sample in snapshot.times_ms.items():
            if sample:
                values[stage] = [round(value, 3) for value in sample]
                units[stage] = "Milliseconds"
        return embedded_line(NAMESPACE, {"Role": self._role}, units, values, now_s)

    def _of_enclaves(self, enclaves: Mapping[str, EnclaveCounts]) -> dict[str, int]:
        """Return what the enclaves counted since the last report. The past of one that is met first is not ours."""
        counts = dict.fromkeys(ENCLAVE_COUNTERS.values(), 0)
        for address, now in enclaves.items():
            before = self._enclaves.get(address)
            if before is None:
                continue
            base = before.counters if before.instance == now.instance else {}
            for counter, metric in ENCLAVE_COUNTERS.items():
                counts[metric] += max(0, now.counters.get(counter, 0) - base.get(counter, 0))
        self._enclaves = {**self._enclaves, **enclaves}
        return counts | {"KeyCacheEntries": sum(now.counters.get("cache_entries", 0) for now in enclaves.values())}


def _totals(snapshot: Snapshot) -> dict[str, int]:
    return {
        "Answered": snapshot.answered,
        "Failed": sum(snapshot.failures.values()),
        **{f"Failed_{code}": snapshot.failures.get(code, 0) for code in ErrorCode},
        **{f"Settled_{state.name.lower()}": snapshot.settled.get(state, 0) for state in State if state in FINAL},
        "RecordCacheHits": snapshot.record_cache_hits,
        "RecordCacheMisses": snapshot.record_cache_misses,
    }
