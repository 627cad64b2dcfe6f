"""`python -m benchmarks.soak`: many sign requests through one enclave process, its memory watched.

A generator and a signer as ordinary processes with the stand-in NSM, the attesting KMS and a relay in this one. Prints
resident memory of the signer at ten points; it should be flat after the first. `--no-cache` sends every request to KMS.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.enclave_stand import make_keys, run_enclaves, sign_batches

_POINTS = 10


async def main() -> int:
    """Run, print, and return 1 when memory grew by more than a tenth after the first point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Sign much; watch memory.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--batch", type=int, default=50, help="items of one request to the enclave")
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--no-cache", action="store_true")
    arguments = parser.parse_args()
    settings = "[key_cache]\nmax_entries = 0\n" if arguments.no_cache else ""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        async with run_enclaves(Path(folder), settings) as (generator, signer):
            records = await make_keys(generator.channel, arguments.users)
            print(f"cache {'off' if arguments.no_cache else 'on'}; before: {signer.resident_mb():.1f} MB", flush=True)
            points = []
            for point in range(_POINTS):
                started = time.perf_counter()
                count = arguments.requests // _POINTS
                await sign_batches(signer.channel, records, count, arguments.batch, arguments.in_flight)
                rate = count / (time.perf_counter() - started)
                points.append(signer.resident_mb())
                print(f"{(point + 1) * count:>8} requests: {points[-1]:.1f} MB, {rate:.0f}/s", flush=True)
    return int(points[-1] > points[0] * 1.1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
