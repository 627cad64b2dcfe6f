"""What a check finds."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, unique


@unique
class Grade(IntEnum):
    """How bad it is; the worst one is the exit code of the command."""

    OK = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    """What was looked at: a short, stable name."""
    grade: Grade
    text: str
    fix: str = ""
    """What to do about it; empty when nothing is to be done."""

    def to_dict(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"check": self.check, "grade": self.grade.name.lower(), "text": self.text, "fix": self.fix}

    def to_line(self) -> str:
        """Return the line for people. What could move a terminal's cursor is shown escaped."""
        line = f"{self.grade.name.lower():<5} {self.check}: {self.text}" + (f". Fix: {self.fix}" if self.fix else "")
        return line if line.isprintable() else ascii(line)


def worst(findings: Iterable[Finding]) -> Grade:
    """Return the worst grade; OK of none."""
    return max((finding.grade for finding in findings), default=Grade.OK)
