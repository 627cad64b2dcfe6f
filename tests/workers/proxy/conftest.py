"""A proxy, its destinations and its DNS, on loopback, Unix sockets and, where its loopback is there, vsock."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from protocol.address import Address, UnixAddress, VsockAddress
from protocol.transport import listen
from workers.proxy.allowlist import AllowedService, AllowList
from workers.proxy.relay import BUFFER_BYTES
from workers.proxy.resolver import AddressInfo, Lookup
from workers.proxy.server import DestinationServer
from workers.proxy.settings import Destination, ProxyLimits

Handler: TypeAlias = Callable[[socket.socket], Awaitable[None]]
ServeUpstream: TypeAlias = Callable[[Handler], AbstractAsyncContextManager[AddressInfo]]

_CID_LOCAL = 1  # VMADDR_CID_LOCAL: the loopback of vsock, module vsock_loopback
_HOST, _PORT = "kms.test", 443


def _info(sock: socket.socket) -> AddressInfo:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sock.getsockname())


def _vsock_loopback_port() -> int | None:
    """Return a free port when vsock's loopback works here."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as server:
            server.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            server.listen(1)
            port: int = server.getsockname()[1]
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
                client.settimeout(0.5)
                client.connect((_CID_LOCAL, port))
    except (OSError, AttributeError):
        return None
    return port


@pytest.fixture(scope="session")
def vsock_port() -> int | None:
    """A free vsock port, or None on a machine without vsock's loopback."""
    return _vsock_loopback_port()


@pytest.fixture(params=["unix", "vsock"])
def listen_address(request: pytest.FixtureRequest, tmp_path: Path, vsock_port: int | None) -> Address:
    """Where the proxy under test listens; each transport that the machine has."""
    if request.param == "unix":
        return UnixAddress(str(tmp_path / "proxy.sock"))
    if vsock_port is None:
        pytest.skip("no vsock loopback here (module vsock_loopback): the proxy was not tested over AF_VSOCK")
    return VsockAddress(_CID_LOCAL, vsock_port)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait for a state that has no event of its own, turn by turn of the loop; the test's time-out bounds it."""

    async def wait(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - counters have no event; production needs none
            await asyncio.sleep(0)

    return wait


@pytest.fixture
def serve_upstream() -> ServeUpstream:
    """Run a TCP server whose connections go to a handler; a handler's OSError is its own affair."""

    @asynccontextmanager
    async def serve(handler: Handler) -> AsyncGenerator[AddressInfo]:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()

        async def handle(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                await handler(connection)

        async def accept() -> None:
            while True:
                connection, _ = await loop.sock_accept(listener)
                task = group.create_task(handle(connection))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            listener.settimeout(0)
            async with asyncio.TaskGroup() as group:
                accepting = group.create_task(accept())
                try:
                    yield _info(listener)
                finally:
                    accepting.cancel()
                    for task in tuple(tasks):
                        task.cancel()

    return serve


@pytest.fixture
def refusing_address() -> Generator[AddressInfo]:
    """An address that refuses at once: bound, so that nobody else gets it, and not listening."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield _info(sock)


@pytest.fixture
def hanging_address() -> Generator[AddressInfo]:
    """An address that never answers: its backlog is full, so the kernel drops what comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        yield _info(listener)


@pytest.fixture
def run_server(
    listen_address: Address,
) -> Callable[..., AbstractAsyncContextManager[tuple[DestinationServer, asyncio.Event]]]:
    """Run one destination's server on `listen_address`; leaving the block drains it."""

    @asynccontextmanager
    async def run(
        answer: Sequence[AddressInfo] | Lookup,
        *,
        listed: tuple[tuple[str, int], ...] = ((_HOST, _PORT),),
        peer_cids: list[int] | None = None,
        **limits: float,
    ) -> AsyncGenerator[tuple[DestinationServer, asyncio.Event]]:
        async def fixed(host: str, port: int) -> Sequence[AddressInfo]:
            assert not callable(answer), f"{host}:{port}"
            return answer

        quick = {"drain_timeout_s": 1.0, "drain_idle_s": 0.01, "connect_timeout_s": 5.0}
        server = DestinationServer(
            Destination(listen=str(listen_address), host=_HOST, port=_PORT, peer_cids=peer_cids),
            ProxyLimits.model_validate({**quick, **limits}),
            allow_list=AllowList.of(AllowedService(address=host, port=port) for host, port in listed),
            lookup=answer if callable(answer) else fixed,
            buffer=memoryview(bytearray(BUFFER_BYTES)),
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(server.run(listen(listen_address), stop))
            try:
                yield server, stop
            finally:
                stop.set()

    return run
