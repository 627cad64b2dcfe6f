"""Two steps of ending, drain and stop, and waits that can be ended without cancelling their task."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")


class Stop:
    """What a signal handler asks for: the first request drains, the second stops."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.stopping = asyncio.Event()

    def request(self) -> None:
        """Ask once more."""
        (self.stopping if self.draining.is_set() else self.draining).set()


class InterruptedWaitError(Exception):
    """The wait was ended on purpose."""


class Interrupts:
    """Runs waits that `interrupt` ends, those under way and all that come after."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._interrupted = asyncio.Event()

    async def run(self, wait: Callable[[], Awaitable[ResultT]], timeout_s: float | None = None) -> ResultT:
        """Await what `wait` returns, and return its result.

        Raises:
            InterruptedWaitError: `interrupt` was called before it ended; it has been cancelled.
            TimeoutError: it took longer than `timeout_s`; it has been cancelled.
        """
        if self._interrupted.is_set():
            raise InterruptedWaitError
        scope = asyncio.timeout(timeout_s)
        try:
            async with scope:
                self._scopes.add(scope)
                return await wait()
        except TimeoutError as error:
            if self._interrupted.is_set() and scope.expired():
                raise InterruptedWaitError from error
            raise
        finally:
            self._scopes.discard(scope)

    def interrupt(self) -> None:
        """End all waits, now and from now on."""
        self._interrupted.set()
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now)
