"""What the operating system can do so that keys stay in memory: no dumps, no debuggers, no swap.

In an enclave there is neither swap nor another user; this is the second wall, and the first one on a laptop.
"""

import ctypes
import resource
import threading
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT_AND_FUTURE: Final = 1 | 2  # sys/mman.h
_STACK_BYTES: Final = 1024 * 1024
"""Of each further thread. Locked memory is resident from the start, and the usual stack would take 8 MiB of it."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def forbid_dumps() -> None:
    """Make this process not dumpable (prctl(2): no core file, no ptrace by the same user) and its core size 0."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def lock_memory() -> bool:
    """Keep all memory of this process out of swap (mlockall(2)); False where the limit does not allow it.

    To be called before the first thread is started: threads get small stacks from here on.
    """
    threading.stack_size(_STACK_BYTES)
    locked: int = _libc().mlockall(_MCL_CURRENT_AND_FUTURE)
    return locked == 0


def die_with_parent(signal_number: int) -> None:
    """Get a signal when the parent process ends (prctl(2)); the caller checks that it has not ended already."""
    if _libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
