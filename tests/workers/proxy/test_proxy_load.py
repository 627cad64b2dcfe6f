"""Many connections: nothing leaks, memory stays flat, and the rest of the traffic does not notice."""

import asyncio
import gc
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from protocol.address import Address
from protocol.transport import connect
from workers.proxy.causes import RelayEnd
from workers.proxy.resolver import AddressInfo
from workers.proxy.server import DestinationServer

Handler = Callable[[socket.socket], Awaitable[None]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
ServeUpstream = Callable[[Handler], AbstractAsyncContextManager[AddressInfo]]
RunServer = Callable[..., AbstractAsyncContextManager[tuple[DestinationServer, asyncio.Event]]]

_AT_ONCE = 500
_DESCRIPTORS = 4 * _AT_ONCE + 200


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())


@pytest.fixture
def many_descriptors() -> None:
    """Raise the soft limit of open files as far as these tests need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _DESCRIPTORS:
        pytest.skip(f"the hard limit of open files is {hard}: {_AT_ONCE} connections at once did not run")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _DESCRIPTORS), hard))


async def _echo(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(connection, 4096):
        await loop.sock_sendall(connection, data)


class _Neighbour:
    """A connection of its own that exchanges bytes all the time; each must come back right."""

    def __init__(self) -> None:
        self.exchanges = 0

    async def talk(self, address: Address, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        with await connect(address, timeout_s=5) as client:
            while not stop.is_set():
                message = b"%08d" % self.exchanges
                await loop.sock_sendall(client, message)
                assert await loop.sock_recv(client, 100) == message
                self.exchanges += 1


async def _one(address: Address) -> None:
    loop = asyncio.get_running_loop()
    with await connect(address, timeout_s=30) as client:
        await loop.sock_sendall(client, b"x")
        assert await loop.sock_recv(client, 10) == b"x"


@pytest.mark.timeout(900)  # ten seconds on a machine of its own, ten minutes on one with twenty others at work
async def test_ten_thousand_one_after_another_leave_nothing(
    until: Until, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """After 10,000 connections there are as many descriptors, tasks and objects as after the first 1,000."""
    async with serve_upstream(_echo) as upstream, run_server([upstream]) as (server, _):
        for _ in range(1_000):
            await _one(listen_address)
        await until(lambda: not server.metrics.open)
        descriptors, tasks, objects = _open_descriptors(), len(asyncio.all_tasks()), _objects()
        for _ in range(9_000):
            await _one(listen_address)
        await until(lambda: not server.metrics.open)
        assert _open_descriptors() <= descriptors
        assert len(asyncio.all_tasks()) <= tasks
        assert _objects() < objects + 900  # a tenth of an object a connection: none is kept
        assert server.metrics.ended == {RelayEnd.CLIENT_CLOSED: 10_000}


@pytest.mark.usefixtures("many_descriptors")
async def test_five_hundred_at_once_leave_nothing_and_harm_nobody(
    until: Until, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """500 connections open together are all served, twice; a neighbour goes on; nothing is left behind."""
    stop_talking = asyncio.Event()
    neighbour = _Neighbour()
    loop = asyncio.get_running_loop()

    async def open_until(all_open: asyncio.Barrier) -> None:
        with await connect(listen_address, timeout_s=30) as client:
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 10) == b"x"
            await all_open.wait()

    async with (
        serve_upstream(_echo) as upstream,
        run_server([upstream], connect_timeout_s=60.0) as (server, _),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(neighbour.talk(listen_address, stop_talking))
        await until(lambda: neighbour.exchanges > 0)
        before = _open_descriptors(), len(asyncio.all_tasks())
        exchanges = neighbour.exchanges
        for _ in range(2):
            all_open = asyncio.Barrier(_AT_ONCE)
            async with asyncio.TaskGroup() as clients:
                for _ in range(_AT_ONCE):
                    clients.create_task(open_until(all_open))
            await until(lambda: server.metrics.open <= 1)
        assert (_open_descriptors(), len(asyncio.all_tasks())) == before
        assert neighbour.exchanges > exchanges
        assert server.metrics.failed.total() == server.metrics.refused.total() == 0
        stop_talking.set()


async def test_a_flood_over_the_cap_is_refused_and_harms_nobody(
    until: Until, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """A thousand connections over the cap leave the served one whole and no descriptor behind."""
    stop_talking = asyncio.Event()
    neighbour = _Neighbour()
    loop = asyncio.get_running_loop()
    async with (
        serve_upstream(_echo) as upstream,
        run_server([upstream], max_connections=1) as (server, _),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(neighbour.talk(listen_address, stop_talking))
        await until(lambda: neighbour.exchanges > 0)
        descriptors = _open_descriptors()
        for _ in range(1_000):
            with await connect(listen_address, timeout_s=5) as client:
                assert await loop.sock_recv(client, 10) == b""
        assert _open_descriptors() == descriptors
        assert server.metrics.counts()["Refused_capacity"] == 1_000
        stop_talking.set()
