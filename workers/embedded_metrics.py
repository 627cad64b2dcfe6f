"""CloudWatch embedded metrics: one JSON object a line, which the agent turns into metrics without an API call. Pure.

Format: "Specification: Embedded metric format", Amazon CloudWatch User Guide.
"""

import json
from collections.abc import Mapping
from typing import Final

_MAX_VALUES: Final = 100
"""The specification allows 100 values in the array of one metric, and 100 metrics in a line."""


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


def embedded_line(
    namespace: str,
    dimensions: Mapping[str, str],
    units: Mapping[str, str],
    values: Mapping[str, int | float | list[float]],
    now_s: float,
) -> str:
    """Return one line, without its end.

    Args:
        namespace: of the metrics.
        dimensions: of each of them, all together.
        units: of each metric of `values`, and in its order.
        values: by metric.
        now_s: seconds since the Unix epoch.
    """
    directive = {
        "Namespace": namespace,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
    root = {"Timestamp": int(now_s * 1000), "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": root, **dimensions, **values}, separators=(",", ":"))
