"""Several worker processes of one kind under one service: started, watched, restarted, drained together.

The group is to its processes what systemd is to the group: each has a NOTIFY_SOCKET on which it says that it is ready,
that it lives and how it is (sd_notify(3)). Each is a program of its own rather than a fork, so that it shares nothing
with its siblings and an event loop need not survive a fork. (`enclave.supervisor` forks: it is measured, has secrets
to keep apart and the duties of PID 1, and nobody to tell.)
"""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from protocol.clock import Clock
from workers.lifecycle import full_jitter_ceiling
from workers.queue.stopping import Stop
from workers.service.health import HealthBoard, ProcessHealth
from workers.service.sdnotify import HEALTH_FIELD, Notifier

PROCESS_VARIABLE: Final = "WORKER_PROCESS"
"""Tells a process which one of its group it is, from 0."""

EXIT_UNSETTLED: Final = 1
EXIT_NOT_STARTED: Final = 127
"""Of a process that could not be started, in logs only; as shells say it."""
EXIT_CRASH_LOOP: Final = 3
"""Processes of the group end faster than restarting them makes sense."""

MAX_CRASHES: Final = 5
CRASH_WINDOW_S: Final = 60.0
"""More than so many ends of processes within this time are a crash loop: about one a process in a bad minute is not."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
HUNG_AFTER_S: Final = 30.0
"""A process whose event loop gives no sign of life for so long is killed; its messages come again."""

_LOOK_EVERY_S: Final = 1.0
_GRACE_S: Final = 10.0

log = structlog.get_logger()


class CrashLoop:
    """Counts ends of processes. Pure.

    Args:
        processes: how many run; the more there are, the more may end.
    """

    def __init__(self, processes: int) -> None:
        self._ends: deque[float] = deque(maxlen=MAX_CRASHES + processes)

    def note(self, now: float) -> bool:
        """Take the end of a process at this time; return whether it is one too many."""
        self._ends.append(now)
        return len(self._ends) == self._ends.maxlen and now - self._ends[0] < CRASH_WINDOW_S


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """What is run, and how long it may take to end."""

    processes: int
    command: Sequence[str]
    """The program and its arguments, the same for each."""

    environ: Mapping[str, str]
    drain_s: float
    """The longest that a process takes to drain and settle; one that takes longer is killed."""


class ProcessGroup:
    """Runs once. `clock` gives monotonic seconds; `uniform` a number in [0, 1), for pauses only."""

    def __init__(
        self,
        settings: GroupSettings,
        board: HealthBoard,
        notifier: Notifier,
        *,
        clock: Clock,
        uniform: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._board = board
        self._notifier = notifier
        self._clock = clock
        self._uniform = uniform
        self._crashes = CrashLoop(settings.processes)
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._signs_of_life: dict[int, float] = {}
        self._ready: set[int] = set()
        self._exit_code = 0

    async def run(self, stop: Stop) -> int:
        """Run until `stop` is requested and every process has ended, or until a crash loop.

        Returns:
            0 when each process settled all its messages; `EXIT_UNSETTLED`; `EXIT_CRASH_LOOP`.
        """
        self._notifier.status("waiting for an enclave")
        with tempfile.TemporaryDirectory(prefix="nitro-signer-") as folder:
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._notifier.keep_alive(), name="signs of life"),
                    group.create_task(self._pass_signals_on(stop), name="signals"),
                    group.create_task(self._end_the_hung(), name="watchdog"),
                ]
                async with asyncio.TaskGroup() as keepers:
                    for index in range(self._settings.processes):
                        keepers.create_task(self._keep(index, Path(folder) / f"{index}.sock", stop))
                for helper in helpers:
                    helper.cancel()
        return self._exit_code

    async def _keep(self, index: int, socket_path: Path, stop: Stop) -> None:
        """Have process `index` run until the group drains."""
        failures = 0
        async with self._listen(index, socket_path):
            while not stop.draining.is_set():
                started_at = self._clock()
                code = await self._run_once(index, socket_path, stop)
                if stop.draining.is_set():
                    never_worked = code == EXIT_NOT_STARTED or (code == -signal.SIGTERM and index not in self._ready)
                    if code != 0 and not never_worked:
                        self._exit_code = self._exit_code or EXIT_UNSETTLED
                    return
                log.error("worker_process_ended", process=index, exit_code=code)
                now = self._clock()
                if self._crashes.note(now):
                    log.critical("worker_crash_loop", count=self._settings.processes)
                    self._exit_code = EXIT_CRASH_LOOP
                    stop.request()
                    return
                failures = 1 if now - started_at > CRASH_WINDOW_S else failures + 1
                pause_s = self._uniform() * full_jitter_ceiling(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, failures)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await stop.draining.wait()

    async def _run_once(self, index: int, socket_path: Path, stop: Stop) -> int:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._settings.command,
                env={
                    **self._settings.environ,
                    PROCESS_VARIABLE: str(index),
                    "NOTIFY_SOCKET": str(socket_path),
                    "WATCHDOG_USEC": str(int(HUNG_AFTER_S * 1_000_000)),
                },
                stdin=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:  # no memory or no process id now: the siblings must not end for that
            log.error("worker_process_not_started", process=index, error=error.strerror)  # noqa: TRY400 - no bug
            return EXIT_NOT_STARTED
        self._running[index] = process
        self._signs_of_life[index] = self._clock()
        log.info("worker_process_started", process=index)
        if stop.draining.is_set():  # since it was asked to start: the signal has missed it
            process.terminate()
        try:
            return await process.wait()
        finally:
            del self._running[index]
            self._board.forget(index)

    # What the processes say

    @contextlib.asynccontextmanager
    async def _listen(self, index: int, path: Path) -> AsyncGenerator[None, None]:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Listener(lambda text: self._hear(index, text)), local_addr=str(path), family=socket.AF_UNIX
        )
        try:
            yield
        finally:
            transport.close()

    def _hear(self, index: int, text: str) -> None:
        now = self._clock()
        self._signs_of_life[index] = now
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name == "READY" and index not in self._ready:
                self._ready.add(index)
                if len(self._ready) == self._settings.processes:
                    self._notifier.status("working")
                    self._notifier.ready()
            elif name == HEALTH_FIELD:
                try:
                    self._board.note(index, ProcessHealth.model_validate_json(value), now)
                except ValidationError:  # cut short, or of another version: as good as silent
                    log.warning("health_report_refused", process=index)

    # Ending

    async def _pass_signals_on(self, stop: Stop) -> None:
        await stop.draining.wait()
        self._notifier.stopping()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                await stop.stopping.wait()
                self._signal(signal.SIGTERM)
                await asyncio.sleep(self._settings.drain_s)
        await asyncio.sleep(_GRACE_S)
        log.critical("worker_processes_killed", count=len(self._running))
        self._signal(signal.SIGKILL)

    async def _end_the_hung(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for index, process in list(self._running.items()):
                if self._clock() - self._signs_of_life[index] > HUNG_AFTER_S:
                    log.critical("worker_process_hung", process=index)
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        self._hear(data.decode(errors="replace"))


def inherited_environ() -> dict[str, str]:
    """Return this program's environment without what only it may use of systemd."""
    own = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    return {name: value for name, value in os.environ.items() if name not in own}
