"""How many machines, and how much of AWS's quotas, a rate of signatures takes: `python -m benchmarks.capacity`.

A model, not a measurement: CPU of a signature from `results/latest.json`, quotas of AWS as published (defaults that an
account can have raised: check yours), and a cache hit rate that you choose. `--write` puts the table into
docs/scaling.md.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.document import write_section
from benchmarks.machine import ROOT
from benchmarks.report import RESULTS

RATES: Final = (100, 10_000, 1_000_000)

KMS_CALLS_PER_S: Final = 10_000
"""Symmetric operations; 20,000 or 100,000 in some Regions."""

PARTITION_READS_PER_S: Final = 3_000
"""Read units of one DynamoDB partition."""

MAX_IN_FLIGHT: Final = 120_000
"""Messages of one standard queue; above it a receive brings nothing."""

UTILISATION: Final = 0.6
"""Of each core: the rest is for bursts and for losing an instance."""

WORKER_CORES, ENCLAVE_CORES, OTHER_CORES = 6, 8, 2
"""Of an instance with 16 vCPUs, such as c7i.4xlarge; a vCPU is taken for a core of the measured machine."""

_SECONDS_IN_FLIGHT: Final = 0.5
"""From receive to delete under load; long enough to be on the safe side."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one signature takes."""

    name: str
    worker_cpu_s: float
    enclave_cpu_s: float
    cold_cpu_s: float
    sqs_calls: float
    per_message: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate takes."""

    costs: Costs
    rate: int
    instances: int
    worker_cores: float
    enclave_cores: float
    sqs_calls_per_s: float
    queues: int
    kms_calls_per_s: float
    reads_per_s: float

    @property
    def kms_quotas(self) -> float:
        """How many default Region quotas of KMS it takes."""
        return self.kms_calls_per_s / KMS_CALLS_PER_S

    @property
    def partitions(self) -> int:
        """DynamoDB partitions that the reads need, evenly spread."""
        return max(1, math.ceil(self.reads_per_s / PARTITION_READS_PER_S))


def plan(costs: Costs, rate: int, hit_rate: float) -> Plan:
    """Return what a rate takes when this part of the signatures finds key and record cached."""
    misses = rate * (1 - hit_rate)
    worker = rate * costs.worker_cpu_s / UTILISATION
    enclave = (rate * costs.enclave_cpu_s + misses * costs.cold_cpu_s) / UTILISATION
    return Plan(
        costs=costs,
        rate=rate,
        instances=max(2, math.ceil(max(worker / WORKER_CORES, enclave / ENCLAVE_CORES))),
        worker_cores=worker,
        enclave_cores=enclave,
        sqs_calls_per_s=rate * costs.sqs_calls,
        queues=max(1, math.ceil(rate / costs.per_message * _SECONDS_IN_FLIGHT / MAX_IN_FLIGHT)),
        kms_calls_per_s=misses,
        reads_per_s=misses,
    )


def costs_of(results: Mapping[str, Any]) -> tuple[Costs, Costs]:
    """Return what a signature by a single and by a bulk job takes, from `results/latest.json`."""
    per_cpu_s = {name: statistics.median(values) for name, values in results["per_cpu_second"].items()}
    calls = results["aws_calls_per_1000"]

    def costs(name: str, kind: str, per_message: int) -> Costs:
        sqs = sum(count for call, count in calls[kind].items() if "Message" in call) / 1000
        return Costs(
            name=name,
            worker_cpu_s=1 / per_cpu_s[f"ours {kind}"],
            enclave_cpu_s=1 / per_cpu_s[f"enclave of ours {kind}"],
            cold_cpu_s=1 / per_cpu_s["enclave cold"],
            sqs_calls=sqs,
            per_message=per_message,
        )

    return costs("single", "single", 1), costs("bulk", "bulk", 1000)


def table(plans: Sequence[Plan], hit_rate: float) -> str:
    """Return the plans as a section of Markdown."""
    lines = [
        f"## Table for a cache hit rate of {hit_rate:.1%}",
        "",
        (
            "| signatures/s | jobs | instances of 16 vCPUs | worker cores | enclave cores | SQS calls/s | sign queues "
            "| KMS calls/s (of the default quota) | reads/s | partitions |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines.extend(
        f"| {p.rate:,} | {p.costs.name} | {p.instances:,} | {p.worker_cores:,.1f} | {p.enclave_cores:,.1f} "
        f"| {p.sqs_calls_per_s:,.0f} | {p.queues} | {p.kms_calls_per_s:,.0f} ({p.kms_quotas:.0%}) "
        f"| {p.reads_per_s:,.0f} | {p.partitions} |"
        for p in plans
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and write it on request."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description="Model a rate of signatures.")
    parser.add_argument("--hit-rate", type=float, default=0.99, help="part of signatures with a cached key")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    both = costs_of(json.loads(RESULTS.read_text()))
    section = table([plan(costs, rate, options.hit_rate) for rate in RATES for costs in both], options.hit_rate)
    print(section)
    if options.write:
        write_section(ROOT / "docs" / "scaling.md", section)


if __name__ == "__main__":
    main()
