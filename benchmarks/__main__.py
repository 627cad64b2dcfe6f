"""`make bench`: measures everything on this machine, and writes the figures down.

python -m benchmarks                     all of it, about ten minutes
python -m benchmarks --rounds 1 --dry    a quick look that writes nothing
"""

import argparse
import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import enclave_speed, latency, report, side_by_side
from benchmarks.figures import Row, Spread
from benchmarks.machine import ROOT, facts
from benchmarks.peer_workers import PYTHON
from benchmarks.prices import bills, sqs_calls_per_1000
from benchmarks.service import SIGNER, WORKER

_BULK_REPLY_BYTES = 400_000
"""A thousand results of about 400 bytes; the job itself has a quarter of it."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the service beside its peers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    began = time.monotonic()
    machine = facts()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        values, spent, memory, growth = asyncio.run(side_by_side.compare(folder, options.rounds))
        print("side by side", {name: str(Spread.of(series)) for name, series in values.items()}, flush=True)
        enclave_values, enclave_rows = asyncio.run(enclave_speed.measure(folder / "enclaves", options.rounds))
        print("enclave", {name: str(Spread.of(series)) for name, series in enclave_values.items()}, flush=True)
        latency_rows = asyncio.run(latency.measure(folder / "latency", 100 * min(2, options.rounds)))
    calls = {kind: cost.calls_per_1000() for kind, cost in spent.items()}
    rows = [
        *side_by_side.rows(values),
        *enclave_rows,
        Row("SQS calls per 1,000 single sign jobs, busy queue", _one(sqs_calls_per_1000(calls["single"])), at_most=320),
        Row("DynamoDB calls per 1,000 of them, records warm", _one(calls["single"].get("BatchGetItem", 0)), at_most=20),
        Row("KMS calls for each cold key", Spread.of(values.pop("decrypts per cold key")), at_most=1),
        *latency_rows,
        Row("memory of the worker after 100,000 signatures", _one(memory[WORKER]), at_most=130, unit="MiB"),
        Row("memory of the signer enclave after them", _one(memory[SIGNER]), at_most=130, unit="MiB"),
        Row("CPU of ten times the jobs", growth, at_most=10.5),
    ]
    cost = bills(calls["single"], calls["bulk"], bulk_bytes=_BULK_REPLY_BYTES)
    for row in rows:
        verdict = ("met   " if row.is_met else "MISSED") if row.goal else "      "
        print(f"{verdict} {row.name}: {row.value} {row.unit} {row.goal}")
    if not options.dry:
        machine["seconds"] = round(time.monotonic() - began)
        report.write(machine, rows, {**values, **enclave_values}, calls, cost)
        subprocess.run([str(PYTHON), "-m", "benchmarks.plots"], cwd=ROOT, check=True)
    print(f"{time.monotonic() - began:.0f} s")


def _one(value: float) -> Spread:
    return Spread.of([value])


if __name__ == "__main__":
    main()
