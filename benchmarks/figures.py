"""Figures: repeated values with their spread, and the goals that they are held against."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated values, and how far they lie apart."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Take values of the same thing."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        digits = 2 if self.median < 20 else 0
        if self.rounds == 1:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure beside its goal."""

    name: str
    value: Spread
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the median reaches the goal."""
        above = self.at_least is None or self.value.median >= self.at_least
        return above and (self.at_most is None or self.value.median <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal as text."""
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}"
        return "" if self.at_most is None else f"≤ {self.at_most:,g}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        value = self.value
        return {
            "name": self.name,
            "median": value.median,
            "low": value.low,
            "high": value.high,
            "rounds": value.rounds,
            "unit": self.unit,
            "goal": self.goal,
            "met": self.is_met,
        }


def ratios(values: Sequence[float], references: Sequence[float]) -> Spread:
    """Return the ratios of values to those that were measured in the same rounds."""
    return Spread.of([value / reference for value, reference in zip(values, references, strict=True)])
