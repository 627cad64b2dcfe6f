"""MiniStack as a child process: the SQS, DynamoDB, STS and instance metadata of a local stack.

It has a virtual environment of its own, because it pins a botocore that aiobotocore cannot share. Queue URLs hold its
port and its saved state holds queue URLs, so the port belongs to the state: it is chosen once and kept beside it.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.child import Child, start_child

HOST: Final = "127.0.0.1"
SERVICES: Final = "sqs,dynamodb,sts,imds"

_HEALTH_REQUEST: Final = b"GET /_ministack/health HTTP/1.0\r\nHost: localhost\r\n\r\n"
_PROBE_PAUSE_S: Final = 0.05
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 15.0
"""It saves its state at the end, and lets a long poll run out before."""


class MiniStackError(RuntimeError):
    """MiniStack cannot start; one line that says why."""


@dataclass(slots=True)
class MiniStack:
    """A MiniStack that runs, or is between two runs. Made by `run_ministack`.

    Attributes:
        port: the same over all restarts.
        child: the present process.
    """

    port: int
    child: Child
    _start: Callable[[], Awaitable[Child]]

    @property
    def endpoint_url(self) -> str:
        """What `AWS_ENDPOINT_URL` is set to."""
        return f"http://{HOST}:{self.port}"

    async def stop(self) -> None:
        """Stop it, so that it saves its state."""
        await self.child.stop(timeout_s=_STOP_TIMEOUT_S)

    async def restart(self) -> None:
        """Stop it, and start it again with its state, on its port.

        Raises:
            MiniStackError: it did not start.
        """
        await self.stop()
        self.child = await self._start()


@contextlib.asynccontextmanager
async def run_ministack(python: Path, state: Path, *, log: Path) -> AsyncGenerator[MiniStack, None]:
    """Start MiniStack, wait until it answers, and stop it at the end so that it saves its state.

    Args:
        python: the interpreter of its virtual environment.
        state: a folder of its own, for what it keeps and for its port.
        log: takes what it prints.

    Raises:
        MiniStackError: not installed, its port is taken, or it ended at once.
    """
    _check_installed(python)
    port = _port_of(state)

    async def start() -> Child:
        with log.open("ab") as output:
            child = await start_child(
                "ministack",
                [str(python), "-m", "ministack"],
                environ=_environment(state, port),
                stdout=output.fileno(),
                stderr=output.fileno(),
            )
        try:
            await _wait_ready(child, port, log)
        except BaseException:
            await child.stop(timeout_s=_STOP_TIMEOUT_S)
            raise
        return child

    ministack = MiniStack(port, await start(), start)
    try:
        yield ministack
    finally:
        await ministack.stop()


def _environment(state: Path, port: int) -> dict[str, str]:
    folders = {"STATE_DIR": state / "saved", "TMPDIR": state / "tmp"}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    return {
        "PATH": os.defpath,
        "HOME": str(state),
        "BIND_HOST": HOST,  # it would listen on every interface
        "GATEWAY_PORT": str(port),
        "SERVICES": SERVICES,
        "PERSIST_STATE": "1",
        "MINISTACK_IMDS_V2_REQUIRED": "1",
        "DOCKER_HOST": "unix:///nonexistent",  # it would look for containers to remove
        **{name: str(folder) for name, folder in folders.items()},
    }


def _check_installed(python: Path) -> None:
    if not python.exists():
        raise MiniStackError(f"no MiniStack at {python}: run `make setup`")


def _port_of(state: Path) -> int:
    state.mkdir(parents=True, exist_ok=True)
    kept = state / "port"
    port = int(kept.read_text()) if kept.exists() else 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise MiniStackError(f"port {port} is taken, and the queues of {state} belong to it") from error
        port = int(probe.getsockname()[1])
    kept.write_text(f"{port}\n")
    return port


async def _wait_ready(child: Child, port: int, log: Path) -> None:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await _is_healthy(port):
                if child.process.returncode is not None:
                    raise MiniStackError(f"MiniStack ended at once: see {log}")
                await asyncio.sleep(_PROBE_PAUSE_S)
    except TimeoutError as error:
        raise MiniStackError(f"MiniStack does not answer after {_START_TIMEOUT_S:.0f} s: see {log}") from error


async def _is_healthy(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(_HEALTH_REQUEST)
        status = await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
    return b" 200 " in status
