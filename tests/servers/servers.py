"""SQS and DynamoDB servers that nobody here wrote, each as a child process on loopback."""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from local.child import start_child

ROOT: Final = Path(__file__).resolve().parents[2]
_MOTO: Final = ROOT / ".venv-servers" / "bin" / "moto_server"
_NODE_MODULES: Final = ROOT / ".node-servers" / "node_modules"
_JARS: Final = ROOT / ".java-servers"
_LOOPBACK: Final = Path(__file__).with_name("loopback.cjs")
_START_TIMEOUT_S: Final = 100.0
"""A Java program on a busy machine takes half a minute."""

_STOP_TIMEOUT_S: Final = 10.0
_PROBE_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started on a port."""

    name: str
    needs: Path
    command: Callable[[int], Sequence[str]]
    environ: Callable[[int], Mapping[str, str]] = lambda _port: {}

    @property
    def missing(self) -> str | None:
        """Why it cannot run on this machine; None when it can."""
        if not self.needs.exists():
            return f"{self.name} is not installed ({self.needs.relative_to(ROOT)}): run `make test-servers`"
        for folder, program in ((_NODE_MODULES, "node"), (_JARS, "java")):
            if self.needs.is_relative_to(folder) and shutil.which(program) is None:
                return f"{self.name} needs {program}, which is not installed"
        return None


def _node(script: Path, *arguments: str) -> Sequence[str]:
    return (shutil.which("node") or "node", "--require", str(_LOOPBACK), str(script), *arguments)


MOTO: Final = Server("moto", _MOTO, lambda port: (str(_MOTO), "-H", "127.0.0.1", "-p", str(port)))
FAUXQS: Final = Server(
    "fauxqs",
    _NODE_MODULES / "fauxqs" / "dist" / "server.js",
    lambda _port: _node(_NODE_MODULES / "fauxqs" / "dist" / "server.js"),
    lambda port: {"FAUXQS_PORT": str(port), "FAUXQS_LOGGER": "false"},
)
DYNALITE: Final = Server(
    "dynalite",
    _NODE_MODULES / "dynalite" / "cli.js",
    lambda port: _node(_NODE_MODULES / "dynalite" / "cli.js", "--port", str(port), "--createTableMs", "0"),
)
ELASTICMQ: Final = Server(
    "ElasticMQ",
    _JARS / ".installed",
    lambda port: (
        shutil.which("java") or "java",
        "-Xmx256m",
        "-XX:TieredStopAtLevel=1",  # starts in half the time
        "-Drest-stats.enabled=false",
        "-Drest-sqs.bind-hostname=127.0.0.1",
        f"-Drest-sqs.bind-port={port}",
        "-Dnode-address.host=127.0.0.1",
        f"-Dnode-address.port={port}",
        "-cp",
        f"{_JARS}/*",
        "org.elasticmq.server.Main",
    ),
)


def skip_what_is_missing(*servers: Server) -> None:
    """Skip the test, and say loudly what was not tested."""
    for server in servers:
        if server.missing is not None:
            pytest.skip(f"NOT TESTED: {server.missing}")


@contextlib.asynccontextmanager
async def serving(server: Server, log: Path) -> AsyncGenerator[str, None]:
    """Run a server until the end; yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with log.open("ab") as output:
        child = await start_child(
            server.name,
            server.command(port),
            environ={"PATH": os.defpath, "HOME": str(log.parent), **server.environ(port)},
            stdout=output.fileno(),
            stderr=output.fileno(),
        )
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await _answers(port):
                assert child.process.returncode is None, log.read_text()
                await asyncio.sleep(_PROBE_PAUSE_S)
        yield f"http://127.0.0.1:{port}"
    finally:
        await child.stop(timeout_s=_STOP_TIMEOUT_S)


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
