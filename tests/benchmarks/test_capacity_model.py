"""The capacity model, the bills and the sections of the benchmark document: plain arithmetic and text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity import Costs, costs_of, plan, table
from benchmarks.document import write_section
from benchmarks.figures import Row, Spread, ratios
from benchmarks.prices import bills

if TYPE_CHECKING:
    from pathlib import Path

SINGLE = Costs("single", 0.0006, 0.00009, 0.0025, 0.31, 1)


@given(st.integers(1_000, 100_000), st.floats(0, 1))
def test_ten_times_the_rate_takes_ten_times_of_everything(rate: int, hit_rate: float) -> None:
    """Cores and calls are linear; instances, queues and partitions are whole numbers of it."""
    one, ten = plan(SINGLE, rate, hit_rate), plan(SINGLE, 10 * rate, hit_rate)
    for name in ("worker_cores", "enclave_cores", "sqs_calls_per_s", "kms_calls_per_s", "reads_per_s"):
        assert getattr(ten, name) == pytest.approx(10 * getattr(one, name))
    assert one.instances <= ten.instances <= 10 * one.instances
    assert one.queues <= ten.queues <= 10 * one.queues


@given(st.floats(0, 0.9), st.integers(100, 1_000_000))
def test_a_better_hit_rate_takes_less(hit_rate: float, rate: int) -> None:
    """Of KMS, of DynamoDB and of the enclaves; the workers do the same either way."""
    worse, better = plan(SINGLE, rate, hit_rate), plan(SINGLE, rate, hit_rate + 0.1)
    assert better.kms_calls_per_s < worse.kms_calls_per_s
    assert better.enclave_cores < worse.enclave_cores
    assert better.worker_cores == worse.worker_cores


def test_two_instances_at_least() -> None:
    """One may be lost."""
    assert plan(SINGLE, 1, 1.0).instances == 2


def test_costs_come_from_the_results() -> None:
    """Medians per CPU-second become CPU-seconds of a signature; SQS calls are those with messages."""
    results = {
        "per_cpu_second": {
            "ours single": [1000.0, 2000.0, 4000.0],
            "ours bulk": [8000.0],
            "enclave of ours single": [10_000.0],
            "enclave of ours bulk": [20_000.0],
            "enclave cold": [400.0],
        },
        "aws_calls_per_1000": {
            "single": {"ReceiveMessage": 100.0, "SendMessageBatch": 100.0, "BatchGetItem": 50.0},
            "bulk": {"ReceiveMessage": 1.0, "SendMessageBatch": 1.0},
        },
    }
    single, bulk = costs_of(results)
    assert single == Costs("single", 1 / 2000, 1 / 10_000, 1 / 400, 0.2, 1)
    assert bulk == Costs("bulk", 1 / 8000, 1 / 20_000, 1 / 400, 0.002, 1000)
    assert "| 100 | single |" in table([plan(single, 100, 0.99)], 0.99)


def test_bills() -> None:
    """A warm signature costs SQS calls only; a cold one a read and a Decrypt as well."""
    made = {bill.name: bill for bill in bills({"ReceiveMessage": 300.0}, {"ReceiveMessage": 3.0}, bulk_bytes=64 * 1024)}
    warm = made["single jobs, keys and records warm"]
    assert (warm.dynamodb, warm.kms, warm.sqs) == pytest.approx((0, 0, (300_000 + 300_000) * 0.4e-6))
    cold = made["single jobs, every record read, every key cold"]
    assert (cold.dynamodb, cold.kms) == pytest.approx((0.125, 3.0))
    assert made["bulk jobs, keys and records warm"].total < warm.total < cold.total
    assert made["direct kms:Sign, beside $1 a key and month"].total == pytest.approx(15)


def test_a_section_replaces_its_own_and_no_other(tmp_path: Path) -> None:
    """Whatever order they are written in."""
    document = tmp_path / "d.md"
    for section in ("## a\n\none\n", "## b\n\ntwo\n", "## a\n\nthree\n"):
        write_section(document, section)
    assert document.read_text() == "# Benchmarks\n\n## a\n\nthree\n\n## b\n\ntwo\n"


def test_goals() -> None:
    """A figure is met by its median; ratios are taken within a round."""
    assert ratios([2.0, 9.0], [1.0, 3.0]) == Spread(2.5, 2.0, 3.0, 2)
    assert Row("r", Spread.of([5.0]), at_least=5).is_met
    assert not Row("r", Spread.of([5.0]), at_most=4).is_met
    assert [Row("r", Spread.of([5.0]), at_least=6000).goal, Row("r", Spread.of([5.0])).goal] == ["≥ 6,000", ""]
