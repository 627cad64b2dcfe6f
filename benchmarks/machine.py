"""What the operating system says of processes and of the machine: CPU time, memory, cores."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PACKAGES: Final = ("aiobotocore", "botocore", "cbor2", "coincurve", "cryptography", "pydantic", "structlog")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its children that have ended, and those that live (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S + sum(
        cpu_seconds(child) for child in children(pid)
    )


def memory_bytes(pid: int) -> int:
    """Return the proportional set size of a process and its living children."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kib * 1024 + sum(memory_bytes(child) for child in children(pid))


def largest_resident_mib(pid: int) -> float:
    """Return the resident set size of the largest process of a tree: a supervisor is small, its worker is not."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    return max([own, *(largest_resident_mib(child) for child in children(pid))])


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pin(pids: Iterable[int], core: int) -> None:
    """Keep processes, all their threads and children, on one core, where the machine lets us and has more than one."""
    cores = sorted(os.sched_getaffinity(0))
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {cores[core % len(cores)]})
            pin(children(pid), core)


def facts() -> dict[str, Any]:
    """Return what a figure must be read with: machine, versions, commit, how busy the machine was."""
    model = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "cpu": model[0] if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": commit.stdout.strip() or "unknown",
        "load_average_before": round(os.getloadavg()[0], 2),
    }
