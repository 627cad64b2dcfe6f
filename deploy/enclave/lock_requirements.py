# ruff: noqa: INP001 - a script, part of no package
"""Writes `requirements.lock` of the enclave: the part of the project's lock file that the enclave needs.

Run in the developer's environment, because the closure is that of the installed packages:

    .venv/bin/python deploy/enclave/lock_requirements.py
"""

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import requires
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE: Final = Path(__file__).parent
ROOT_NAMES: Final = HERE / "requirements.in"
LOCK: Final = HERE / "requirements.lock"
PROJECT_LOCK: Final = HERE.parents[1] / "requirements.lock"

_HEAD: Final = "# Derived from the project's requirements.lock by lock_requirements.py: do not edit.\n"
_PINNED: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==")
_MACHINE: Final = {"platform_system": "Linux", "sys_platform": "linux", "extra": ""}
"""Images are Linux; Python's version is that of the environment that runs this, 3.11 for a release."""


def read_blocks(lock: str) -> dict[str, str]:
    """Return the text of each requirement of a lock file, with its hashes, by canonical name."""
    blocks: dict[str, str] = {}
    name = None
    for line in lock.splitlines(keepends=True):
        if match := _PINNED.match(line):
            name = canonicalize_name(match["name"])
            blocks[name] = ""
        if name is not None:
            blocks[name] += line
    return blocks


def read_names(text: str) -> list[str]:
    """Return the canonical names of `requirements.in`."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [canonicalize_name(line) for line in lines if line]


def close(names: Iterable[str], blocks: Mapping[str, str]) -> set[str]:
    """Return the names with everything that they require on an enclave's platform.

    Raises:
        KeyError: a package that the project's lock file does not have.
    """
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in blocks:
            raise KeyError(name)
        found.add(name)
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(_MACHINE):
                waiting.append(canonicalize_name(requirement.name))
    return found


def derive() -> str:
    """Return the text of the enclave's lock file."""
    blocks = read_blocks(PROJECT_LOCK.read_text())
    wanted = close(read_names(ROOT_NAMES.read_text()), blocks)
    return _HEAD + "".join(blocks[name] for name in sorted(wanted))


def main() -> int:
    """Write the file; say what it has."""
    text = derive()
    LOCK.write_text(text)
    sys.stdout.write(f"{LOCK.name}: {len(read_blocks(text))} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
