"""Carries out a plan: kills, and starts again what nobody else would."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from local.ministack import MiniStackError
from local.stack import LocalStack, StackError
from tests.chaos.plan import Blow, Strike


class Nemesis:
    """Does what a plan says, in its order; a program that is starting again is left to it.

    Attributes:
        struck: what was done, by what and to whom.
        failures: programs that ended by themselves, or did not start again.
    """

    def __init__(self, stack: LocalStack, plan: Sequence[Strike]) -> None:
        self.struck: Counter[tuple[Blow, str]] = Counter()
        self.failures: list[str] = []
        self._stack = stack
        self._plan = plan
        self._busy: set[str] = set()

    async def run(self) -> None:
        """Return when the last event of the plan is over, and everything runs again."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for strike in self._plan:
                await asyncio.sleep(max(0.0, start + strike.at_s - time.monotonic()))
                if strike.target not in self._busy:
                    group.create_task(self._strike(strike))

    async def _strike(self, strike: Strike) -> None:
        self._busy.add(strike.target)
        try:
            match strike.blow:
                case Blow.KILL:
                    self.struck[strike.blow, strike.target] += 1
                    await self._stack.kill_and_restart(strike.target)
                case Blow.KILL_PROCESS:
                    self.struck[strike.blow, strike.target] += _kill_process_of(self._stack.children[strike.target].pid)
                case Blow.RESTART_EMULATOR:
                    assert self._stack.emulator is not None
                    self.struck[strike.blow, strike.target] += 1
                    await self._stack.emulator.restart()
        except (StackError, MiniStackError) as error:
            self.failures.append(str(error))
        finally:
            self._busy.discard(strike.target)

    def note_ended(self) -> None:
        """Look for programs that have ended without anybody's doing."""
        for name, child in self._stack.children.items():
            if child.process.returncode is not None:
                self.failures.append(f"{name} ended by itself with code {child.process.returncode}")


def _kill_process_of(pid: int) -> int:
    """Kill the first process that a program has started; return how many were killed: a program may have none."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
            return 1
    return 0
