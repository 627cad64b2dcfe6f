"""The supervisor in a kernel of the test's own: every restart, delay and signal, to the second, without waiting."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING, Any

import pytest

from enclave.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable


class Ended(BaseException):
    """Stands for a process that has exited."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Kernel:
    """Processes, signals and time, as far as a supervisor meets them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alive: dict[int, float] = {}
        """Process id to the time at which it ends."""
        self.lives: list[float] = []
        """How long the next processes live; those after them for ever."""
        self.starts: list[float] = []
        self.kills: list[tuple[int, int]] = []
        self.stop_at = 1000.0
        self.is_stopping = False
        self.ignores_sigterm = False
        self.orphans: list[int] = []
        self.orphans_end_at = 0.0
        self.refusals = 0
        """How many of the next forks fail."""
        self._next_pid = 100

    def fork(self) -> int:
        """Start one, or refuse."""
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EAGAIN, "fork")
        self._next_pid += 1
        self.starts.append(self.now)
        self.alive[self._next_pid] = self.now + (self.lives.pop(0) if self.lives else float("inf"))
        return self._next_pid

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        """Reap one that has ended, if any."""
        if pid != -1:
            del self.alive[pid]
            return pid, 0
        if self.orphans and self.now >= self.orphans_end_at:
            return self.orphans.pop(), 0
        if not self.alive:
            raise ChildProcessError
        for candidate, end in self.alive.items():
            if end <= self.now:
                del self.alive[candidate]
                return candidate, 0
        assert options
        return 0, 0

    def kill(self, pid: int, number: int) -> None:
        """Signal one."""
        self.kills.append((pid, number))
        if number == signal.SIGTERM and not self.ignores_sigterm:
            self.alive[pid] = self.now

    def sigwaitinfo(self, watched: Any) -> Any:
        """Wait for the next thing to happen."""
        return self.sigtimedwait(watched, float("inf"))

    def sigtimedwait(self, watched: Any, timeout_s: float) -> Any:
        """Move time to the next thing that happens."""
        until = self.now + timeout_s
        ends = [end for end in self.alive.values() if self.now <= end]
        happening = min([*ends, float("inf")])
        if signal.SIGTERM in watched and not self.is_stopping and self.stop_at <= min(until, happening):
            self.now, self.is_stopping = self.stop_at, True
            return _info(signal.SIGTERM)
        self.now = min(until, happening)
        return _info(signal.SIGCHLD) if happening <= until else None


def _info(number: int) -> Any:
    return type("Info", (), {"si_signo": number})


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Put the supervisor into a kernel of its own."""
    made = Kernel()
    for name in ("fork", "waitpid", "kill"):
        monkeypatch.setattr(f"enclave.supervisor.os.{name}", getattr(made, name))
    for name in ("sigwaitinfo", "sigtimedwait"):
        monkeypatch.setattr(f"enclave.supervisor.signal.{name}", getattr(made, name))
    monkeypatch.setattr("enclave.supervisor.signal.pthread_sigmask", lambda *_: None)
    monkeypatch.setattr("enclave.supervisor.time.monotonic", lambda: made.now)
    return made


def run(kernel: Kernel, count: int = 1, child: Callable[[int], None] = lambda _: None) -> int:
    """Supervise until SIGTERM."""
    code = Supervisor(count, child).run()
    assert not kernel.alive
    return code


def test_one_process_each_and_an_orderly_end(kernel: Kernel) -> None:
    """SIGTERM is passed on to every child, and the exit code is 0."""
    assert run(kernel, 4) == 0
    assert kernel.starts == [0.0] * 4
    assert [number for _, number in kernel.kills] == [signal.SIGTERM] * 4


def test_restarts_come_later_and_later(kernel: Kernel) -> None:
    """A child that dies at once is started again after 0.5, 1, 2 ... 30 seconds."""
    kernel.lives = [0.0] * 9
    run(kernel)
    pauses = [later - earlier for earlier, later in zip(kernel.starts, kernel.starts[1:], strict=False)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_healthy_life_makes_the_next_restart_quick(kernel: Kernel) -> None:
    """A minute is long enough to call it healthy."""
    kernel.lives = [0.0, 0.0, 60.0, 0.0]
    run(kernel)
    assert kernel.starts == [0.0, 0.5, 1.5, 62.0, 63.0]


def test_a_fork_that_fails_is_tried_again(kernel: Kernel) -> None:
    """Later and later, and the others run: PID 1 of an enclave must not end for want of memory."""
    kernel.refusals = 3
    assert run(kernel, 2) == 0
    assert kernel.starts == [0.5, 1.5]


def test_one_child_does_not_delay_another(kernel: Kernel) -> None:
    """Each has a back-off of its own."""
    kernel.lives = [0.0, 10.0]
    run(kernel, 2)
    assert kernel.starts == [0.0, 0.0, 0.5, 10.5]


def test_orphans_are_reaped(kernel: Kernel) -> None:
    """As PID 1 every orphan becomes ours; it is no child to restart."""
    kernel.lives = [5.0]
    kernel.orphans = [7, 8]
    kernel.orphans_end_at = 5.0
    run(kernel)
    assert kernel.orphans == []
    assert kernel.starts == [0.0, 5.5]


def test_children_that_do_not_stop_are_killed(kernel: Kernel) -> None:
    """After ten seconds."""
    kernel.ignores_sigterm = True
    run(kernel, 2)
    assert [number for _, number in kernel.kills] == [signal.SIGTERM] * 2 + [signal.SIGKILL] * 2
    assert kernel.now == kernel.stop_at + 10.0


def test_a_stop_while_a_restart_is_due(kernel: Kernel) -> None:
    """No new child after SIGTERM."""
    kernel.lives = [0.0]
    kernel.stop_at = 0.2
    run(kernel)
    assert kernel.starts == [0.0]


@pytest.mark.parametrize(("failure", "code"), [(None, 0), (KeyboardInterrupt(), 1)])
def test_a_child_never_returns_into_the_supervisor(
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: KeyboardInterrupt | None,
    code: int,
) -> None:
    """Its work done or failed, it exits, with the code that tells which."""
    ran: list[int] = []

    def work(index: int) -> None:
        ran.append(index)
        if failure is not None:
            raise failure

    def leave(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr("enclave.supervisor.os.fork", lambda: 0)
    monkeypatch.setattr("enclave.supervisor.os._exit", leave)
    with pytest.raises(Ended) as ended:
        Supervisor(1, work).run()
    assert (ended.value.code, ran) == (code, [0])
    assert ("KeyboardInterrupt" in capsys.readouterr().err) == bool(code)
    assert kernel.starts == []
