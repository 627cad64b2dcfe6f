"""Child processes that never outlive their parent, not even after `kill -9` of it.

`python -m local.child PARENT_PID PROGRAM ARGUMENTS…` asks the kernel for SIGKILL at the parent's death (prctl(2),
PR_SET_PDEATHSIG, which execve(2) keeps), then becomes the program. A launcher, because nothing may safely run between
fork and exec in a process that has threads.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_MAX_LINE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Child:
    """A running child. `name` is for people."""

    name: str
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Its process id; the launcher and the program have the same."""
        return self.process.pid

    async def stop(self, *, timeout_s: float) -> int:
        """Ask it to end, insist after the time-out; return its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            return await self.process.wait()


async def start_child(
    name: str,
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    stdout: int | None = None,
    stderr: int | None = None,
) -> Child:
    """Start a program with exactly this environment. `stdout` and `stderr` are as in `subprocess`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "local.child",
        str(os.getpid()),
        *command,
        env={**environ, "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        limit=_MAX_LINE_BYTES,
        start_new_session=True,  # Ctrl-C at the terminal reaches the parent alone, which ends its children in order
    )
    return Child(name, process)


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent_pid, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent_pid):
        sys.exit("the parent has ended")  # between fork and prctl: nobody would ever end us
    os.execvp(command[0], command)  # noqa: S606 - a fixed command of this project, no shell


if __name__ == "__main__":
    main()
