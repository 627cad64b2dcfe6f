"""The story that `make demo` tells."""

import subprocess
import sys

import pytest

from tests.stack.harness import ROOT, clean_environ

pytestmark = pytest.mark.stack

STEPS = 13


def test_the_demo_goes_as_told() -> None:
    """Every step of the story is true, and the exit code says so."""
    done = subprocess.run(
        [sys.executable, "-m", "local.cli", "demo"],
        env=clean_environ(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum(line.startswith("  ok  ") for line in lines) == STEPS
    assert lines[-1] == "All of it went as told."
    assert "record_refused" in done.stdout
