"""The first process of an enclave: one server process per vCPU, restarted when it dies, and the duties of PID 1.

Children are forked before anything secret, random or threaded exists, so they share the code's memory and nothing
else. As PID 1 the supervisor reaps whatever is orphaned, and passes SIGTERM on.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0
_HEALTHY_AFTER_S: Final = 60.0
"""A process that has lived this long did not die at once: its next restart is quick again."""

_STOP_TIMEOUT_S: Final = 10.0
_WATCHED: Final = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})


class Supervisor:
    """Keeps `count` children alive until SIGTERM or SIGINT. One per program; owns its signals."""

    def __init__(self, count: int, run_child: Callable[[int], None]) -> None:
        """Take how many, and what child number `i` does; the child ends when that returns."""
        self._count = count
        self._run_child = run_child
        self._children: dict[int, tuple[int, float]] = {}
        """Process id to child number and start time."""
        self._starts: dict[int, float] = {}
        """Child number to the time at which it shall start."""
        self._delays: dict[int, float] = {}

    def run(self) -> int:
        """Supervise; return the exit code once every child has ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        _ended()  # orphans of a shell that started this program: no signal will tell of those that have ended by now
        self._starts = dict.fromkeys(range(self._count), time.monotonic())
        while True:
            self._start_due()
            received = self._wait()
            if received in {signal.SIGTERM, signal.SIGINT}:
                return self._stop()
            self._reap()

    def _wait(self) -> int | None:
        if not self._starts:
            return signal.sigwaitinfo(_WATCHED).si_signo
        info = signal.sigtimedwait(_WATCHED, max(0.0, min(self._starts.values()) - time.monotonic()))
        return None if info is None else info.si_signo

    def _start_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, at in self._starts.items() if at <= now]:
            del self._starts[index]
            try:
                pid = os.fork()
            except OSError:  # too little memory or too many processes, for now: PID 1 must outlive that
                self._start_later(index, now)
                continue
            if pid == 0:
                self._become(index)
            self._children[pid] = index, now

    def _become(self, index: int) -> NoReturn:
        """Run as a child, and never return into the supervisor's code."""
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            self._run_child(index)
            code = 0
        except BaseException as error:  # noqa: BLE001 - whatever it is, this process ends here and its code tells
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(code)

    def _reap(self) -> None:
        for pid in _ended():
            if (child := self._children.pop(pid, None)) is None:
                continue  # an orphan that became ours, as PID 1
            index, started_at = child
            now = time.monotonic()
            if now - started_at >= _HEALTHY_AFTER_S:
                self._delays.pop(index, None)
            self._start_later(index, now)

    def _start_later(self, index: int, now: float) -> None:
        delay = self._delays.get(index, _FIRST_DELAY_S)
        self._delays[index] = min(_MAX_DELAY_S, delay * 2)
        self._starts[index] = now + delay

    def _stop(self) -> int:
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while self._children and (left := deadline - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
            for pid in _ended():
                self._children.pop(pid, None)
        self._signal_all(signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)
        return 0

    def _signal_all(self, number: int) -> None:
        for pid in self._children:
            os.kill(pid, number)


def _ended() -> Sequence[int]:
    """Return the ids of all children that have ended, and let the kernel forget them."""
    ended: list[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append(pid)
