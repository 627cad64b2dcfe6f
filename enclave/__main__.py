"""`python -m enclave CONFIG`: the program of an enclave image, on real hardware only."""

import os
import sys
from pathlib import Path

from enclave.attested_clock import set_system_clock
from enclave.main import EXIT_REFUSED, Platform, run_enclave
from enclave.nsm_device import DevNsm

_ARGUMENTS = 2


def main() -> int:
    """Run the enclave with the device of this machine."""
    if len(sys.argv) != _ARGUMENTS:
        sys.stderr.write("usage: python -m enclave CONFIG\n")
        return EXIT_REFUSED
    platform = Platform(make_nsm=lambda _: DevNsm(), clock_setter=set_system_clock, must_lock_memory=True)
    return run_enclave(Path(sys.argv[1]), os.environ, platform)


if __name__ == "__main__":
    sys.exit(main())
