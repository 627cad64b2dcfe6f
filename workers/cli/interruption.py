"""Ctrl-C and SIGTERM for commands that must not be torn out of a step."""

import contextlib
import signal
from collections.abc import Generator
from types import FrameType

EXIT_INTERRUPTED = 130
"""What a shell reports for Ctrl-C."""


class Interruption:
    """Ends a command between two steps: at once where nothing is under way, else when the step is done.

    Attributes:
        is_requested: whether somebody wants the command to end.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._in_step = False

    @contextlib.contextmanager
    def handled(self) -> Generator[None, None, None]:
        """Take the signals over for a while."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def step(self) -> Generator[None, None, None]:
        """Do a step to its end; raise `KeyboardInterrupt` after it if somebody has asked meanwhile."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
        if self.is_requested:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.is_requested = True
        if not self._in_step:
            raise KeyboardInterrupt
