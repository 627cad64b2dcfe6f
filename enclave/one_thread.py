"""Blocking calls of an event loop, one at a time, in one thread of their own, each with a deadline."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class CallTimeoutError(Exception):
    """The call, or the wait for its turn, took longer than the deadline."""


class OneThread(Generic[T]):
    """Runs blocking calls for one event loop, first come, first served.

    A blocking call cannot be stopped. When its caller gives up, by deadline or by cancellation, the thread stays in it
    until it comes back, and no second thread is started: whatever hangs below, one thread hangs with it. After a
    deadline has passed, new calls fail at once until the call that held them up has come back.

    Nothing is started before the first call, so an instance may be made before a fork and used after it. The thread is
    a daemon: a call that hangs in the kernel must not keep the process from ending.
    """

    def __init__(self, name: str, *, deadline_s: float) -> None:
        self._name = name
        self._deadline_s = deadline_s
        self._jobs: queue.SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._current: Future[T] | None = None
        """The call that the thread is in, or was in last."""

        self._overdue: Future[T] | None = None
        """The call that the thread was in when a deadline passed."""

    async def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns, or raise what it raises.

        Raises:
            CallTimeoutError: no result within the deadline, counted from now.
        """
        if self._overdue is not None and not self._overdue.done():
            raise CallTimeoutError(f"an earlier call has not come back within {self._deadline_s:g} s")
        result: Future[T] = Future()
        deadline = asyncio.timeout(self._deadline_s)
        try:
            async with deadline:
                self._start(result, call)
                return await asyncio.wrap_future(result)
        except TimeoutError as error:
            if not deadline.expired():
                raise  # the call's own
            self._overdue = self._current
            raise CallTimeoutError(f"no result within {self._deadline_s:g} s") from error

    def close(self) -> None:
        """End the thread as soon as it is idle. The instance is not used after this."""
        self._jobs.put(None)

    def _start(self, result: Future[T], call: Callable[[], T]) -> None:
        self._jobs.put((result, call))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, call = job
            if not result.set_running_or_notify_cancel():
                continue  # its caller gave up while it waited
            self._current = result
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller, not to this thread
                result.set_exception(error)
            else:
                result.set_result(value)
