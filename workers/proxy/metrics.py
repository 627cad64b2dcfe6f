"""Counters and latencies of one destination, as CloudWatch embedded metrics and as a health line."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.embedded_metrics import LatencySample, embedded_line
from workers.proxy.causes import ConnectFailure, Refusal, RelayEnd
from workers.proxy.relay import ByteCount

NAMESPACE = "NitroSigner/VsockProxy"


@dataclass(slots=True)
class DestinationMetrics:
    """What happened at one destination since the process started; `open` is now."""

    destination: str
    open: int = 0
    accepted: int = 0
    connected: int = 0
    dns_failures: int = 0
    bytes_up: ByteCount = field(default_factory=ByteCount)
    bytes_down: ByteCount = field(default_factory=ByteCount)
    refused: Counter[Refusal] = field(default_factory=Counter[Refusal])
    failed: Counter[ConnectFailure] = field(default_factory=Counter[ConnectFailure])
    ended: Counter[RelayEnd] = field(default_factory=Counter[RelayEnd])
    connect_ms: LatencySample = field(default_factory=LatencySample)

    def counts(self) -> dict[str, int]:
        """Return every counter by its metric name; each cause has one of its own, also when it never happened."""
        return {
            "Accepted": self.accepted,
            "Connected": self.connected,
            "BytesUp": self.bytes_up.total,
            "BytesDown": self.bytes_down.total,
            "DnsFailures": self.dns_failures,
            "Refused": self.refused.total(),
            **{f"Refused_{cause}": self.refused[cause] for cause in Refusal},
            "Failed": self.failed.total(),
            **{f"Failed_{cause}": self.failed[cause] for cause in ConnectFailure},
            **{f"Ended_{cause}": self.ended[cause] for cause in RelayEnd},
        }


class IntervalReport:
    """Turns the running totals of one destination into one report an interval."""

    def __init__(self, metrics: DestinationMetrics) -> None:
        self._metrics = metrics
        self._reported: Mapping[str, int] = metrics.counts()

    def take(self, now_s: float) -> tuple[str, dict[str, int | float | str | None]]:
        """Return the embedded-metric line of the interval and the fields of its health line, and begin the next one.

        Args:
            now_s: seconds since the Unix epoch.
        """
        metrics, counts = self._metrics, self._metrics.counts()
        interval = {name: value - self._reported[name] for name, value in counts.items()}
        sample, metrics.connect_ms = metrics.connect_ms, LatencySample()
        self._reported = counts
        health: dict[str, int | float | str | None] = {
            "destination": metrics.destination,
            "open": metrics.open,
            "accepted": interval["Accepted"],
            "refused": interval["Refused"],
            "failed": interval["Failed"],
            "dns_failures": interval["DnsFailures"],
            "bytes_up": interval["BytesUp"],
            "bytes_down": interval["BytesDown"],
            "connect_ms_p50": sample.percentile(50),
            "connect_ms_p99": sample.percentile(99),
        }
        return embedded_metrics(metrics.destination, interval, metrics.open, sample.values, now_s), health


def embedded_metrics(
    destination: str, interval: Mapping[str, int], open_now: int, connect_ms: list[float], now_s: float
) -> str:
    """Return one line of the embedded metric format, without its line end."""
    units = {name: "Bytes" if name.startswith("Bytes") else "Count" for name in interval}
    values: dict[str, int | float | list[float]] = {**interval, "Open": open_now}
    units["Open"] = "Count"
    if connect_ms:
        values["ConnectTime"] = connect_ms
        units["ConnectTime"] = "Milliseconds"
    return embedded_line(NAMESPACE, {"Destination": destination}, units, values, now_s)
