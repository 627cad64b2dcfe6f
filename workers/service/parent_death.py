"""A worker process of a group drains when the group's program is killed: nobody else would tell it to end."""

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def drain_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGTERM at the parent's death (prctl(2)); at once if it has died already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)
