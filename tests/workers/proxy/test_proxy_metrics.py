"""Counters, embedded metrics, and warnings that do not multiply."""

import json

from hypothesis import given
from hypothesis import strategies as st

from workers.embedded_metrics import LatencySample
from workers.proxy.causes import ConnectFailure, Refusal, RelayEnd
from workers.proxy.metrics import DestinationMetrics, IntervalReport
from workers.proxy.quiet import QuietLog


def test_a_report_has_what_happened_since_the_last_one() -> None:
    """Counters are reported as differences, gauges as they are, latencies once."""
    metrics = DestinationMetrics("kms.test:443")
    report = IntervalReport(metrics)
    metrics.accepted, metrics.connected, metrics.open = 3, 2, 1
    metrics.refused[Refusal.CAPACITY] += 1
    metrics.bytes_up.total = 100
    metrics.connect_ms.add(2.5)
    first, health = report.take(1_700_000_000.25)
    metrics.failed[ConnectFailure.DNS] += 1
    second, later = report.take(1_700_000_060.25)

    data = json.loads(first)
    assert data["_aws"]["Timestamp"] == 1_700_000_000_250
    assert (data["Destination"], data["Accepted"], data["Refused_capacity"]) == ("kms.test:443", 3, 1)
    assert (data["BytesUp"], data["Open"], data["ConnectTime"]) == (100, 1, [2.5])
    assert health == {
        "destination": "kms.test:443",
        "open": 1,
        "accepted": 3,
        "refused": 1,
        "failed": 0,
        "dns_failures": 0,
        "bytes_up": 100,
        "bytes_down": 0,
        "connect_ms_p50": 2.5,
        "connect_ms_p99": 2.5,
    }
    again = json.loads(second)
    assert (again["Accepted"], again["Failed_dns"], again["Failed"], again["Open"]) == (0, 1, 1, 1)
    assert "ConnectTime" not in again
    assert later["connect_ms_p99"] is None


def test_every_metric_is_declared_and_has_a_value() -> None:
    """The directive names exactly the values of the line, within the format's limit of 100 metrics."""
    metrics = DestinationMetrics("kms.test:443")
    metrics.connect_ms.add(1)
    data = json.loads(IntervalReport(metrics).take(0)[0])
    directive = data["_aws"]["CloudWatchMetrics"][0]
    names = [metric["Name"] for metric in directive["Metrics"]]
    assert sorted(names) == sorted(set(data) - {"_aws", "Destination"})
    assert len(names) <= 100
    assert directive["Dimensions"] == [["Destination"]]
    assert {metric["Unit"] for metric in directive["Metrics"]} == {"Bytes", "Count", "Milliseconds"}
    assert len(names) == 9 + len(Refusal) + len(ConnectFailure) + len(RelayEnd)


@given(st.integers(0, 2_000))
def test_a_sample_is_bounded_and_spread(count: int) -> None:
    """However many values come, at most 100 stay, evenly spaced from the first on."""
    sample = LatencySample()
    for value in range(count):
        sample.add(value)
    assert len(sample.values) == min(count, len(sample.values)) <= 100
    steps = {later - earlier for earlier, later in zip(sample.values, sample.values[1:], strict=False)}
    assert len(steps) <= 1
    assert count == 0 or sample.values[0] == 0
    assert count <= 100 or len(sample.values) >= 50


def test_percentiles_are_nearest_rank() -> None:
    """The percentile is a value of the sample."""
    sample = LatencySample()
    for value in range(1, 101):
        sample.add(value)
    assert [sample.percentile(percent) for percent in (0, 50, 99, 100)] == [1, 50, 99, 100]


def test_a_flood_of_warnings_is_one_line_a_second() -> None:
    """The same event and cause is written once a second, and the next line counts the rest; another cause is apart."""
    lines: list[tuple[str, dict[str, str | float | None]]] = []

    class _Log:
        def warning(self, event: str, **fields: str | float | None) -> None:
            lines.append((event, fields))

    now = 0.0
    quiet = QuietLog(_Log(), lambda: now)
    for _ in range(5):
        quiet.warning("connection_refused", "capacity", open=1)
    quiet.warning("connection_refused", "peer_cid")
    now = 1.0
    quiet.warning("connection_refused", "capacity", open=2)
    quiet.warning("connection_refused", "peer_cid")
    assert lines == [
        ("connection_refused", {"cause": "capacity", "left_out": 0, "open": 1}),
        ("connection_refused", {"cause": "peer_cid", "left_out": 0}),
        ("connection_refused", {"cause": "capacity", "left_out": 4, "open": 2}),
        ("connection_refused", {"cause": "peer_cid", "left_out": 0}),
    ]
