"""The contents of an enclave image: made twice, the same bytes; and the program that they hold starts."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.template import ROOT

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        "TEST_IMAGE" not in os.environ, reason="NOT TESTED here: it takes a minute; run `make test-image`"
    ),
]

SCRIPT = ROOT / "deploy" / "enclave" / "contents.sh"
PYTHON = Path(sys.executable).resolve()
"""Not that of the environment, whose packages an enclave does not have."""

UNCHECKED_HASH = 0b01
"""Flags of a .pyc file (PEP 552): its validity is by hash, and not checked."""


def make(site: Path) -> Path:
    """Run both steps, as the Dockerfile does."""
    requirements = ROOT / "deploy" / "enclave" / "requirements.lock"
    for step, source in (("packages", requirements), ("code", ROOT)):
        subprocess.run(["sh", str(SCRIPT), step, str(PYTHON), str(site), str(source)], check=True)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the contents, made once."""
    return make(tmp_path_factory.mktemp("first") / "site")


def described(site: Path) -> dict[str, tuple[int, str]]:
    """Return mode and hash of each file, by its place."""
    return {
        path.relative_to(site).as_posix(): (path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(site.rglob("*"))
        if path.is_file()
    }


def test_the_same_inputs_give_the_same_files(site: Path, tmp_path: Path) -> None:
    """Made again, at another time and in another place: the same names, modes and bytes."""
    again = make(tmp_path / "another" / "place")
    assert described(again) == described(site)


def test_there_is_nothing_but_what_an_enclave_needs(site: Path) -> None:
    """KMS is the only service; no stand-in, no worker, no program; each module has its bytecode, without a time."""
    services = {path.name for path in (site / "botocore" / "data").iterdir() if path.is_dir()}
    assert services == {"kms"}
    assert not [name for name in ("local", "workers", "tests", "bin", "pip") if (site / name).exists()]
    compiled = list(site.rglob("*.pyc"))
    assert {int.from_bytes(path.read_bytes()[4:8], "little") for path in compiled} == {UNCHECKED_HASH}
    assert len(compiled) == len(list(site.rglob("*.py")))


def test_the_program_starts(site: Path) -> None:
    """With these files and the standard library alone, it gets as far as reading its configuration."""
    done = subprocess.run(
        [str(PYTHON), "-S", "-m", "enclave"],
        env={"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    assert "ModuleNotFoundError" not in done.stderr, done.stderr
    assert "usage" in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
