"""Warnings that a flood cannot multiply: each event and cause once a second; the next line counts what was left out."""

from collections import Counter
from collections.abc import Callable
from typing import Protocol

_INTERVAL_S = 1.0


class WarningLog(Protocol):
    """The part of a structlog logger that is used here."""

    def warning(self, event: str, **fields: str | float | None) -> object:
        """Write one line."""
        ...


class QuietLog:
    """Warnings, at most one per event and cause each second.

    Args:
        log: where the lines go.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, log: WarningLog, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._monotonic = monotonic
        self._next_at: dict[tuple[str, str], float] = {}
        self._left_out: Counter[tuple[str, str]] = Counter()

    def warning(self, event: str, cause: str, **fields: str | float | None) -> None:
        """Write the event, or count it when the same was written less than a second ago."""
        key = (event, cause)
        now = self._monotonic()
        if now < self._next_at.get(key, now):
            self._left_out[key] += 1
            return
        self._next_at[key] = now + _INTERVAL_S
        self._log.warning(event, cause=cause, left_out=self._left_out.pop(key, 0), **fields)
