"""Starts an enclave. Production (`enclave.__main__`) and the stand-in's entry point differ only in what they pass."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.enclave import EnclaveConfigError, MeasuredConfig
from enclave.attested_clock import ClockSetter
from enclave.environment import EnvironmentRefusedError, refuse_diverting_variables
from enclave.hardening import die_with_parent, forbid_dumps
from enclave.nsm import NsmTransport
from enclave.process import ProcessParts, run_process
from enclave.supervisor import Supervisor
from protocol.address import CID_ANY, Address, VsockAddress
from protocol.clock import system_clock

EXIT_REFUSED = 2
"""The environment or the command line is not acceptable."""

FALLBACK_ADDRESS = VsockAddress(CID_ANY, 5000)
"""Where an enclave whose configuration cannot be read still says so."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What an enclave runs on: the real device, or a stand-in that brings everything of its own."""

    make_nsm: Callable[[bytes], NsmTransport]
    """Makes the way to the NSM in each server process, after the fork, from the bytes of the configuration: a stand-in
    has to measure them itself."""

    clock_setter: ClockSetter | None
    must_lock_memory: bool
    fallback_address: Address = FALLBACK_ADDRESS


def run_enclave(config_path: Path, environ: Mapping[str, str], platform: Platform) -> int:
    """Run until SIGTERM; return the exit code."""
    try:
        refuse_diverting_variables(environ)
    except EnvironmentRefusedError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_REFUSED
    forbid_dumps()
    config_bytes, measured = _read(config_path)
    address = measured.config.listen if measured else platform.fallback_address
    processes = (measured.config.processes if measured else 1) or len(os.sched_getaffinity(0))
    supervisor_pid = os.getpid()

    def run_child(index: int) -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != supervisor_pid:
            return
        parts = ProcessParts(
            measured=measured,
            address=address.sibling(index),
            processes=processes,
            nsm=platform.make_nsm(config_bytes),
            clock=system_clock,
            clock_setter=platform.clock_setter,
            must_lock_memory=platform.must_lock_memory,
        )
        asyncio.run(_until_terminated(parts))

    return Supervisor(processes, run_child).run()


def _read(path: Path) -> tuple[bytes, MeasuredConfig | None]:
    """Return the bytes and the configuration; None, and a line on standard error, when it cannot be used."""
    config_bytes = b""
    try:
        config_bytes = path.read_bytes()
        return config_bytes, MeasuredConfig.parse(config_bytes)
    except (OSError, EnclaveConfigError) as error:
        sys.stderr.write(f"{path}: {error}\n")
        return config_bytes, None


async def _until_terminated(parts: ProcessParts) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_process(parts))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
