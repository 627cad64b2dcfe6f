"""A short run with faults and kills; `make chaos` makes long ones."""

from pathlib import Path

import pytest

from tests.chaos.run import ChaosOptions, run_chaos

pytestmark = pytest.mark.stack


async def test_nothing_is_lost_overwritten_or_wrong(tmp_path: Path) -> None:
    """Twelve seconds of faults, kills and restarts: each job is answered or put aside with a reason, no key changes."""
    options = ChaosOptions(seed=0, duration_s=12, jobs=300, mean_pause_s=2, settle_timeout_s=300)
    report = await run_chaos(options, tmp_path)
    assert report.problems() == []
    assert report.holds
    assert report.verdict.answered >= 300
    assert report.faults
    assert sum(report.strikes.values()) > 0
