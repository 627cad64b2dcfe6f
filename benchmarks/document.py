"""Sections of docs/benchmarks.md: each writer replaces its own and leaves the others alone."""

from pathlib import Path
from typing import Final

from benchmarks.machine import ROOT

DOCUMENT: Final = ROOT / "docs" / "benchmarks.md"


def write_section(document: Path, section: str) -> None:
    """Put a section into the document in place of the one with the same heading, or at its end."""
    heading = section.partition("\n")[0]
    text = document.read_text() if document.exists() else "# Benchmarks\n"
    before, found, after = text.partition(f"{heading}\n")
    rest = after.partition("\n## ")
    following = f"\n## {rest[2]}" if found and rest[1] else ""
    document.write_text(before.rstrip("\n") + "\n\n" + section.rstrip("\n") + "\n" + following)
