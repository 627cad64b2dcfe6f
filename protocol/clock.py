"""Time as an argument: the one place that reads the system's clock."""

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Returns seconds since the Unix epoch."""


def system_clock() -> float:
    """Return the system's wall-clock time in seconds since the Unix epoch."""
    return time.time()  # noqa: TID251 - the one place that may
