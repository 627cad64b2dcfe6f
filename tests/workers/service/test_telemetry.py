"""The metrics of a worker process: what was counted in an interval, once, and in the format of CloudWatch."""

import json
from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import ErrorCode
from workers.embedded_metrics import LatencySample
from workers.enclaves.counts import EnclaveCounts
from workers.lifecycle import State
from workers.service.telemetry import Snapshot, WorkerReport
from workers.stage_times import Stage, StageTimes

NOTHING = Snapshot(
    answered=0,
    failures={},
    settled={},
    record_cache_hits=0,
    record_cache_misses=0,
    in_flight=0,
    credentials_left_s=None,
)
ADDRESS = "vsock://16:5000"


def enclave(instance: bytes, **counters: int) -> dict[str, EnclaveCounts]:
    """Return what one enclave process says."""
    return {ADDRESS: EnclaveCounts(instance, counters)}


def taken(report: WorkerReport, snapshot: Snapshot) -> dict[str, Any]:
    """Return the line of a snapshot as an object."""
    line: dict[str, Any] = json.loads(report.take(snapshot, 1_700_000_000.5))
    return line


def test_counts_are_those_of_the_interval() -> None:
    """Each report has what was counted since the one before; together they have everything once."""
    report = WorkerReport("sign")
    first = replace(
        NOTHING, answered=5, failures={ErrorCode.KMS_DENIED: 2}, settled={State.DELETED: 4}, record_cache_misses=3
    )
    line = taken(report, first)
    assert (line["Answered"], line["Failed"], line["Failed_kms_denied"], line["Settled_deleted"]) == (5, 2, 2, 4)
    assert line["RecordCacheMisses"] == 3
    second = replace(first, answered=7, settled={State.DELETED: 6, State.RELEASED: 2}, record_cache_hits=9)
    line = taken(report, second)
    assert (line["Answered"], line["Failed"], line["Settled_deleted"], line["Settled_released"]) == (2, 0, 2, 2)
    assert (line["RecordCacheHits"], line["RecordCacheMisses"]) == (9, 0)


def test_the_line_is_an_embedded_metric() -> None:
    """Every named metric has a value and every value a name; within the limits of the format; the role is dimension."""
    everything = replace(
        NOTHING, credentials_left_s=1234.6, enclaves=enclave(b"1"), times_ms={stage: [1.0] for stage in Stage}
    )
    line = taken(WorkerReport("sign"), everything)
    root = line.pop("_aws")
    (directive,) = root["CloudWatchMetrics"]
    assert root["Timestamp"] == 1_700_000_000_500
    assert (directive["Namespace"], directive["Dimensions"]) == ("NitroSigner/Worker", [["Role"]])
    assert line.pop("Role") == "sign"
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    assert units.keys() == line.keys()
    assert len(units) <= 100
    assert (units["CredentialsLeft"], line["CredentialsLeft"]) == ("Seconds", 1235)
    assert {units[stage] for stage in Stage} == {"Milliseconds"}


def test_every_cause_has_its_metric_also_when_it_never_happened() -> None:
    """CloudWatch shows a zero, not a gap, for what did not happen; what is not known is left out."""
    line = taken(WorkerReport("generate"), NOTHING)
    assert {f"Failed_{code}" for code in ErrorCode} <= line.keys()
    assert {f"Settled_{state}" for state in ("deleted", "released", "lapsed", "lost")} <= line.keys()
    assert not {"CredentialsLeft", "JobTime", "KmsCalls"} & line.keys()


def test_the_past_of_an_enclave_is_not_counted_again() -> None:
    """What an enclave counted before it was met is nobody's; afterwards everything counts once."""
    report = WorkerReport("sign")
    lines = [
        taken(report, replace(NOTHING, enclaves=enclave(b"1", kms_calls=calls, cache_entries=entries)))
        for calls, entries in ((100, 7), (103, 8), (103, 8))
    ]
    assert [line["KmsCalls"] for line in lines] == [0, 3, 0]
    assert [line["KeyCacheEntries"] for line in lines] == [7, 8, 8]


def test_an_enclave_that_restarted_counts_from_zero() -> None:
    """Another start is told by its instance, not by its numbers; an enclave that is away is not met anew."""
    report = WorkerReport("sign")
    seen = [
        taken(report, replace(NOTHING, enclaves=enclaves))["KmsThrottles"]
        for enclaves in (
            enclave(b"1", kms_throttles=4),
            enclave(b"2", kms_throttles=5),  # more than before, and all of it new
            {},
            enclave(b"2", kms_throttles=6),
        )
    ]
    assert seen == [0, 5, 0, 1]


def test_stage_times_begin_anew_with_each_report() -> None:
    """A sample belongs to one interval."""
    times = StageTimes()
    times.add(Stage.WORK, 0.25)
    assert times.take()[Stage.WORK] == [250.0]
    assert times.take()[Stage.WORK] == []


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250, 1_000])
def test_a_sample_is_spread_over_its_interval(count: int) -> None:
    """However many values there are: at most 100, in their order, the first among them, from both halves."""
    sample = LatencySample()
    for value in range(count):
        sample.add(value)
    assert 0 < len(sample.values) <= 100
    assert sample.values == sorted(sample.values)
    assert sample.values[0] == 0
    assert sample.values[-1] >= count / 2 - 1
