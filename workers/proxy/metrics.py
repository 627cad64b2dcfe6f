"""Counters and latencies of one destination, as CloudWatch embedded metrics and as a health line.

Format: "Specification: Embedded metric format", Amazon CloudWatch User Guide. One JSON object a line on standard
output; the CloudWatch agent or the log driver turns it into metrics without an API call.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.proxy.causes import ConnectFailure, Refusal, RelayEnd
from workers.proxy.relay import ByteCount

NAMESPACE = "NitroSigner/VsockProxy"

_MAX_VALUES = 100
"""The specification allows 100 values in the array of one metric."""


class LatencySample:
    """At most 100 values of an interval, spread evenly over it: when full, every second one goes and half are taken."""

    def __init__(self) -> None:
        self._stride = 1
        self._seen = 0
        self.values: list[float] = []

    def add(self, value: float) -> None:
        """Take note of one value."""
        if self._seen % self._stride == 0:
            if len(self.values) == _MAX_VALUES:
                self.values = self.values[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self.values.append(value)
        self._seen += 1

    def percentile(self, percent: int) -> float | None:
        """Return the nearest-rank percentile of the sample, or None of an empty one."""
        if not self.values:
            return None
        rank = -(-len(self.values) * percent // 100)
        return sorted(self.values)[max(rank, 1) - 1]


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
    values: dict[str, int | list[float]] = {**interval, "Open": open_now}
    units["Open"] = "Count"
    if connect_ms:
        values["ConnectTime"] = connect_ms
        units["ConnectTime"] = "Milliseconds"
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["Destination"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
    root = {"Timestamp": int(now_s * 1000), "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": root, "Destination": destination, **values}, separators=(",", ":"))
