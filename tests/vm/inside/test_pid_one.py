"""The supervisor as process 1, which in an enclave it is: in a process namespace of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

from enclave.supervisor import Supervisor

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace needs root"),
]

_CLONE_NEWPID = 0x20000000
_ORPHANS = 5


def _leave_an_orphan() -> None:
    """Leave a grandchild behind, which becomes a child of process 1 and ends."""
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)


def _supervise(report: int) -> NoReturn:
    """Be process 1: one child that leaves orphans, says so, and waits."""

    def child(index: int) -> None:
        del index
        for _ in range(_ORPHANS):
            _leave_an_orphan()
        os.write(report, b"pid%d left%d " % (os.getppid(), _ORPHANS))
        signal.pause()

    code = Supervisor(1, child).run()
    os.write(report, b"end%d" % code)
    os._exit(code)


def _children_of(pid: int) -> list[str]:
    """Return the states of a process's children: Z for one that has ended and that nobody has waited for."""
    found: list[str] = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has gone in between
            text = status.read_text()
            if f"\nPPid:\t{pid}\n" in text:
                found.append(text.partition("State:\t")[2][:1])
    return found


def test_process_one_reaps_orphans_and_passes_sigterm_on() -> None:
    """No zombie stays of processes that became its own, and SIGTERM ends its children and itself with code 0."""
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        if ctypes.CDLL(None).unshare(_CLONE_NEWPID) != 0:
            os._exit(77)
        first = os.fork()
        if first == 0:
            _supervise(writing)
        os.write(writing, b"outside%d " % first)
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status))
    os.close(writing)
    said = b""
    while b"left" not in said or b"outside" not in said:
        more = os.read(reading, 4096)
        assert more, said
        said += more
    assert b"pid1 " in said
    first = int(said.partition(b"outside")[2].partition(b" ")[0])
    while len(children := _children_of(first)) != 1:
        time.sleep(0.01)  # the test's time-out bounds it
    assert children != ["Z"]
    os.kill(first, signal.SIGTERM)
    while more := os.read(reading, 4096):
        said += more
    os.close(reading)
    _, status = os.waitpid(middle, 0)
    assert said.endswith(b"end0")
    assert os.waitstatus_to_exitcode(status) == 0
