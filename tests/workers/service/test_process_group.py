"""A group of processes: started, heard, restarted, drained and stopped together. The processes are small scripts."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from workers.queue.stopping import Stop
from workers.service.health import HealthBoard, ProcessHealth
from workers.service.process_group import (
    CRASH_WINDOW_S,
    EXIT_CRASH_LOOP,
    EXIT_UNSETTLED,
    HUNG_AFTER_S,
    MAX_CRASHES,
    CrashLoop,
    GroupSettings,
    ProcessGroup,
    inherited_environ,
)
from workers.service.sdnotify import HEALTH_FIELD, Notifier

HEALTH = ProcessHealth(
    enclave_up=True, paused=False, draining=False, in_flight=0, last_poll_age_s=0.0, credentials_left_s=None
)
SAY = (
    "import os, signal, socket, sys, time\n"
    "def say(text):\n"
    "    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:\n"
    "        s.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])\n"
)
REPORT = f"{HEALTH_FIELD}={HEALTH.model_dump_json()}"
LIVE = f"say('READY=1'); say({REPORT!r})\nwhile True: time.sleep(60)\n"
DRAINS = "signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\n"


class Rig:
    """A group that runs a script, and the systemd that it reports to."""

    def __init__(self, folder: Path, script: str, processes: int = 2, drain_s: float = 30.0) -> None:
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._systemd.bind(str(folder / "systemd.sock"))
        self._told: list[str] = []
        self.board = HealthBoard(processes, 60.0)
        self.stop = Stop()
        self.now = 1_000.0
        settings = GroupSettings(
            processes=processes, command=(sys.executable, "-c", SAY + script), environ={}, drain_s=drain_s
        )
        notifier = Notifier(str(folder / "systemd.sock"))
        self.group = ProcessGroup(settings, self.board, notifier, clock=lambda: self.now, uniform=lambda: 0.0)

    @property
    def told(self) -> list[str]:
        """What systemd was told so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._told.append(self._systemd.recv(4096).decode())
        return self._told

    @property
    def pids(self) -> list[int]:
        """Those that run."""
        return [process.pid for process in self.group._running.values()]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what a process does in its own time."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[int], None]:
        """Run the group until every process has ended."""
        with contextlib.closing(self._systemd):
            async with asyncio.TaskGroup() as group:
                yield group.create_task(self.group.run(self.stop))


async def test_the_service_is_ready_when_every_process_is(tmp_path: Path) -> None:
    """One that is not ready keeps the service from being it; reports of health reach the board."""
    gate = tmp_path / "gate"
    first = "os.environ['NOTIFY_SOCKET'].endswith('/0.sock')"
    wait = f"while not {first} and not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    rig = Rig(tmp_path, DRAINS.format(code=0) + wait + LIVE)
    async with rig.running() as ended:
        await rig.until(lambda: list(rig.board.ill(rig.now)) == [1])
        assert "READY=1" not in rig.told
        gate.touch()
        await rig.until(lambda: "READY=1" in rig.told)
        await rig.until(lambda: not rig.board.not_ready(rig.now))
        rig.stop.request()
        assert await ended == 0
    assert rig._told == ["STATUS=waiting for an enclave", "STATUS=working", "READY=1"]


async def test_a_killed_process_is_started_again_and_the_others_live_on(tmp_path: Path) -> None:
    """With another process id; the sibling keeps its own. Its last report counts no more until it reports again."""
    rig = Rig(tmp_path, DRAINS.format(code=0) + LIVE)
    async with rig.running() as ended:
        await rig.until(lambda: "READY=1" in rig.told)
        killed, sibling = rig.pids
        os.kill(killed, signal.SIGKILL)
        await rig.until(lambda: len(rig.pids) == 2 and killed not in rig.pids)
        await rig.until(lambda: not rig.board.ill(rig.now))
        assert sibling in rig.pids
        rig.stop.request()
        assert await ended == 0


async def test_a_process_that_leaves_messages_makes_the_exit_code_1(tmp_path: Path) -> None:
    """When one of them says after a drain that not every message is settled, the service says so."""
    rig = Rig(tmp_path, DRAINS.format(code="os.environ['NOTIFY_SOCKET'].endswith('/1.sock')") + LIVE)
    async with rig.running() as ended:
        await rig.until(lambda: "READY=1" in rig.told)
        rig.stop.request()
        assert await ended == EXIT_UNSETTLED


async def test_a_second_request_is_passed_on(tmp_path: Path) -> None:
    """The first SIGTERM drains, the second stops: each process gets both."""
    twice = (
        "seen = []\n"
        "def take(*_):\n"
        "    seen.append(1)\n"
        "    say('STATUS=drains')\n"
        "    if len(seen) == 2: sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, take)\n"
    )
    rig = Rig(tmp_path, twice + LIVE, processes=1)
    async with rig.running() as ended:
        await rig.until(lambda: "READY=1" in rig.told)
        rig.now += 1
        rig.stop.request()
        await rig.until(lambda: rig.group._signs_of_life[0] == rig.now)
        assert not ended.done()
        rig.stop.request()
        assert await ended == 0


async def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time of a drain and some grace; the service then ends with code 1."""
    monkeypatch.setattr("workers.service.process_group._GRACE_S", 0.1)
    rig = Rig(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LIVE, processes=1, drain_s=0.1)
    async with rig.running() as ended:
        await rig.until(lambda: "READY=1" in rig.told)
        rig.stop.request()
        assert await ended == EXIT_UNSETTLED


async def test_a_silent_process_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that hangs gives no signs of life: the group is its watchdog."""
    monkeypatch.setattr("workers.service.process_group._LOOK_EVERY_S", 0.01)
    rig = Rig(tmp_path, DRAINS.format(code=0) + LIVE, processes=1)
    async with rig.running() as ended:
        await rig.until(lambda: not rig.board.ill(rig.now))  # its last word
        (hung,) = rig.pids
        rig.now += HUNG_AFTER_S
        await asyncio.sleep(0.1)  # some looks: so long is not too long
        assert rig.pids == [hung]
        rig.now += 0.1
        await rig.until(lambda: rig.pids not in ([], [hung]))
        await rig.until(lambda: not rig.board.ill(rig.now))
        rig.stop.request()
        assert await ended == 0


async def test_a_crash_loop_ends_the_service(tmp_path: Path) -> None:
    """Processes that end at once, again and again: exit code 3, and the sibling that works drains."""
    script = "if os.environ['NOTIFY_SOCKET'].endswith('/0.sock'): sys.exit(7)\n" + DRAINS.format(code=0) + LIVE
    rig = Rig(tmp_path, script)
    async with rig.running() as ended:
        assert await ended == EXIT_CRASH_LOOP


async def test_a_process_that_cannot_be_started_counts_as_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have no process to give for a moment: it is tried again, and the siblings know nothing of it."""
    start = asyncio.create_subprocess_exec
    refusals = iter([True, False, True, True])

    async def start_or_refuse(*command: str, **options: Any) -> asyncio.subprocess.Process:
        if next(refusals, False):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_or_refuse)
    rig = Rig(tmp_path, DRAINS.format(code=0) + LIVE)
    async with rig.running() as ended:
        await rig.until(lambda: "READY=1" in rig.told)
        rig.stop.request()
        assert await ended == 0


async def test_a_report_of_another_form_counts_as_none(tmp_path: Path) -> None:
    """A process whose report cannot be read is as good as silent; the group lives on."""
    rig = Rig(
        tmp_path, DRAINS.format(code=0) + f"say('{HEALTH_FIELD}={{}}'); say('READY=1')\nwhile True: time.sleep(9)"
    )
    async with rig.running() as ended:
        await rig.until(lambda: "READY=1" in rig.told)
        assert list(rig.board.ill(rig.now)) == [0, 1]
        rig.stop.request()
        assert await ended == 0


def test_a_crash_loop_is_many_ends_in_a_short_time() -> None:
    """One end less, or the same number over a longer time, is none."""
    quick, slow = CrashLoop(1), CrashLoop(1)
    ends = range(MAX_CRASHES + 1)
    assert [quick.note(float(end)) for end in ends] == [False] * MAX_CRASHES + [True]
    assert not any(slow.note(end * CRASH_WINDOW_S / MAX_CRASHES) for end in range(100))


def test_processes_do_not_speak_to_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to the group's program alone is not inherited."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "1")
    environ = inherited_environ()
    assert "KEPT" in environ
    assert not environ.keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
