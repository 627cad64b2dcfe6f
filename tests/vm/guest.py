"""`python -m tests.vm.guest`: one virtual machine as one program, with its vsock back end and bridge.

Ends when QEMU does, and takes QEMU and the back end with it, even on `kill -9`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from enclave.hardening import die_with_parent
from tests.vm.bridge import serve_bridge
from tests.vm.cache import Cache
from tests.vm.machine import MachineError, Paths, enclave_machine, vsock_back_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from typing import IO

_SOCKET_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.02


@contextlib.asynccontextmanager
async def run_program(
    command: Sequence[str], *, environ: Mapping[str, str], log: IO[bytes]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program that ends with this process, whatever ends this process."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.defpath, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # an enclave is not asked either: terminate-enclave takes its memory away
            await process.wait()


async def run_guest(cache: Cache, image: Path, paths: Paths, *, cid: int, listen: Path | None, port: int) -> NoReturn:
    """Boot an image and let it run until cancelled.

    Raises:
        MachineError: the back end did not start, or the machine ended by itself.
    """
    paths.remove_sockets()
    with paths.console.open("ab") as console, paths.log.open("ab") as log:
        async with run_program(vsock_back_end(cache, paths, cid), environ={}, log=log) as back_end:
            await _until_exists(paths.device, back_end)
            machine = enclave_machine(cache, image, paths, cid)
            async with run_program(machine.command, environ=machine.environ, log=console) as qemu:
                code = await _serve_until_end(qemu, paths, listen, port)
    raise MachineError(f"the machine ended with code {code}: see {paths.console}")


async def _serve_until_end(qemu: asyncio.subprocess.Process, paths: Paths, listen: Path | None, port: int) -> int:
    async with asyncio.TaskGroup() as group:
        bridge = None if listen is None else group.create_task(serve_bridge(listen, paths.vsock, port))
        code = await qemu.wait()
        if bridge is not None:
            bridge.cancel()
    return code


async def _until_exists(path: Path, process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(_SOCKET_TIMEOUT_S):
            while not path.exists():
                if process.returncode is not None:
                    raise MachineError(f"the vsock back end ended with code {process.returncode}")
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise MachineError("the vsock back end did not make its socket") from error


async def _main(arguments: argparse.Namespace) -> int:
    paths = Paths(arguments.folder, arguments.name)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run_guest(
                Cache.of_this_user(),
                arguments.image,
                paths,
                cid=arguments.cid,
                listen=arguments.listen,
                port=arguments.port,
            )
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return 0  # cancelled: a machine that ends by itself is an error


def main() -> int:
    """Run one guest until it ends or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm.guest", description="A virtual machine that is an enclave."
    )
    parser.add_argument("image", type=Path, help="EIF")
    parser.add_argument("--folder", type=Path, required=True, help="for sockets; its path is short")
    parser.add_argument("--name", required=True)
    parser.add_argument("--cid", type=int, required=True)
    parser.add_argument("--listen", type=Path, help="Unix socket that leads to --port of the guest")
    parser.add_argument("--port", type=int, default=5000)
    try:
        return asyncio.run(_main(parser.parse_args()))
    except* MachineError as errors:
        sys.stderr.write(f"{errors.exceptions[0]}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
