"""Writes what was measured: `benchmarks/results/latest.json`, and the section of docs/benchmarks.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from benchmarks.document import DOCUMENT, write_section
from benchmarks.figures import Row, Spread
from benchmarks.machine import ROOT
from benchmarks.prices import Bill

RESULTS: Final = ROOT / "benchmarks" / "results" / "latest.json"

_NAMES: Final = {
    "sequential noop": "sequential boto3 + ecdsa, the demo's style: signs",
    "celery noop": "celery + kombu SQS: no-op",
    "celery sign": "celery + kombu SQS: signs with a key in memory",
    "dramatiq noop": "dramatiq-sqs: no-op",
    "dramatiq sign": "dramatiq-sqs: signs with a key in memory",
    "taskiq noop": "taskiq-aio-sqs: no-op",
    "taskiq sign": "taskiq-aio-sqs: signs with a key in memory",
    "plain noop": "plain aiobotocore loop, batches of 10: no-op",
    "ours cold": "this service, single jobs, records read: signs, verifies, audits",
    "ours single": "this service, single jobs, records warm: signs, verifies, audits",
    "ours bulk": "this service, bulk jobs: signs, verifies, audits",
}


def write(
    machine: Mapping[str, Any],
    rows: Sequence[Row],
    values: Mapping[str, Sequence[float]],
    calls: Mapping[str, Mapping[str, float]],
    bills: Sequence[Bill],
) -> None:
    """Write both."""
    results = {
        "machine": machine,
        "figures": [row.to_dict() for row in rows],
        "per_cpu_second": {name: [round(value, 1) for value in series] for name, series in values.items()},
        "aws_calls_per_1000": calls,
        "dollars_per_million_signatures": [{**asdict(bill), "total": bill.total} for bill in bills],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_section(DOCUMENT, "\n".join(_section(machine, rows, values, calls, bills)))


def _section(
    machine: Mapping[str, Any],
    rows: Sequence[Row],
    values: Mapping[str, Sequence[float]],
    calls: Mapping[str, Mapping[str, float]],
    bills: Sequence[Bill],
) -> list[str]:
    spreads = {name: Spread.of(series) for name, series in values.items()}
    lines = [
        "## The service beside other queue workers",
        "",
        _introduction(machine),
        "",
        "| figure | goal | measured | |",
        "|---|---|---|---|",
        *(f"| {row.name} | {row.goal} {row.unit} | {row.value} {row.unit} | {_verdict(row)} |" for row in rows),
        "",
        "![Jobs per CPU-second](images/jobs.svg)",
        "",
        "| worker | per CPU-second |",
        "|---|---|",
        *(f"| {title} | {spreads[name]} |" for name, title in _NAMES.items()),
        f"| bare coincurve: signatures | {spreads['bare curve']} |",
        f"| enclave, warm keys | {spreads['enclave warm']} |",
        "",
        "![The enclave beside the curve](images/enclave.svg)",
        "",
        "| AWS calls for 1,000 | " + " | ".join(calls) + " |",
        "|---|" + "---|" * len(calls),
        *(
            f"| {name} | " + " | ".join(f"{kind.get(name, 0):.0f}" for kind in calls.values()) + " |"
            for name in sorted({name for kind in calls.values() for name in kind})
        ),
        "",
        "| dollars per million signatures | SQS | DynamoDB | KMS | all |",
        "|---|---|---|---|---|",
        *(f"| {b.name} | {b.sqs:.2f} | {b.dynamodb:.3f} | {b.kms:.2f} | **{b.total:.2f}** |" for b in bills),
        "",
        "![Dollars per million signatures](images/cost.svg)",
    ]
    return [line.replace("  ", " ") for line in lines]


def _introduction(machine: Mapping[str, Any]) -> str:
    return (
        f"`make bench`: {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"commit {machine['commit']}; load average {machine['load_average_before']} before the start. CPU-seconds are "
        "those of the measured process, from the operating system; medians, with the lowest and highest round in "
        "brackets. SQS and DynamoDB are `benchmarks.memory_aws`: a process of its own that speaks AWS's protocol and "
        "answers at once."
    )


def _verdict(row: Row) -> str:
    if not row.goal:
        return ""
    return "met" if row.is_met else "**missed**"
