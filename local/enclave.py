"""`python -m local.enclave CONFIG --state DIR`: the program of an enclave image as an ordinary process.

The same server, the same roles, the same checks; only the NSM is the stand-in of this machine, injected here.
"""

import argparse
import os
import sys
from pathlib import Path

import protocol
from enclave.main import Platform, run_enclave
from enclave.nsm import NsmTransport
from local.measurements import Measurements, digest_code, measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.address import UnixAddress
from protocol.clock import system_clock

SOURCE_ROOT = Path(protocol.__file__).parent.parent
"""Where the measured packages lie."""


def measure_enclave(config_bytes: bytes) -> Measurements:
    """Return the PCRs that an enclave of this code with this configuration has on this machine."""
    return measure(config_bytes, digest_code(SOURCE_ROOT))


def main() -> int:
    """Run an enclave with the stand-in NSM of a state folder."""
    parser = argparse.ArgumentParser(prog="python -m local.enclave", description="A stand-in for one Nitro enclave.")
    parser.add_argument("config", type=Path, help="the measured configuration, TOML")
    parser.add_argument("--state", type=Path, required=True, help="the folder of the stand-in's Nitro authority")
    arguments = parser.parse_args()
    state: Path = arguments.state

    def make_nsm(config_bytes: bytes) -> NsmTransport:
        authority = NitroAuthority.in_folder(state, now_s=system_clock())
        return StandInNsm(authority, measure_enclave(config_bytes), clock=system_clock)

    platform = Platform(
        make_nsm=make_nsm,
        clock_setter=None,  # the clock of a laptop is not ours to set
        must_lock_memory=False,
        fallback_address=UnixAddress(str(state.resolve() / "enclave.sock")),
    )
    return run_enclave(arguments.config, os.environ, platform)


if __name__ == "__main__":
    sys.exit(main())
