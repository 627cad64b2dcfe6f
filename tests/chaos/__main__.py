"""`python -m tests.chaos --minutes 15 --seed 7 --jobs 20000`: prints the figures as JSON and as Markdown.

Exit code 0 when every promise was kept, 1 when not: the seed repeats the plan. The stack's logs stay in `--state`.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import ChaosOptions, run_chaos

_MINUTE_S = 60


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break the service, and check it.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long there are faults")
    parser.add_argument("--jobs", type=int, help="how many are sent in that time (default: 20 a second)")
    parser.add_argument("--seed", type=int, help="repeats a plan (default: a new one)")
    parser.add_argument("--pause-s", type=float, default=6.0, help="mean time between two kills")
    parser.add_argument("--settle-s", type=float, default=180.0, help="a job that is open so long after it is lost")
    parser.add_argument("--state", type=Path, help="folder for state and logs (default: a temporary one, removed)")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    options = ChaosOptions(
        seed=seed,
        duration_s=arguments.minutes * _MINUTE_S,
        jobs=arguments.jobs or int(arguments.minutes * _MINUTE_S * 20),
        mean_pause_s=arguments.pause_s,
        settle_timeout_s=arguments.settle_s,
    )
    with tempfile.TemporaryDirectory(prefix="nitro-chaos-") as temporary:
        report = asyncio.run(run_chaos(options, arguments.state or Path(temporary)))
    broken = [f"BROKEN, seed {seed}: {problem}" for problem in report.problems()]
    sys.stdout.write("\n".join([report.to_json(), report.to_markdown(), *broken]) + "\n")
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
