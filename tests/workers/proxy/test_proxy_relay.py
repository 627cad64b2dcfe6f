"""One relay between two real socket pairs: bytes, back-pressure, half-close, resets, time-outs."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.transport import MAX_VSOCK_SEND_BYTES, StreamSocket
from workers.proxy.causes import RelayEnd
from workers.proxy.relay import BUFFER_BYTES, ByteCount, Relay, RelayTimeouts

_LONG_S = 3600.0
_SHORT_S = 0.02


class _VsockLike(StreamSocket):
    """A Unix socket that says it is a vsock one and remembers the sizes of its sends."""

    sends: list[int]

    @property
    def family(self) -> int:  # type: ignore[override]  # the point of the class
        return socket.AF_VSOCK

    def send(self, data: Any, flags: int = 0) -> int:
        sent = super().send(data, flags)
        self.sends.append(sent)
        return sent


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class _Wire:
    """The two far ends (`enclave`, `server`) and the relay's two near ends."""

    def __init__(self, family: str) -> None:
        pair = _tcp_pair if family == "tcp" else socket.socketpair
        self.enclave, self.client = pair()
        self.upstream, self.server = pair()
        self.all = [self.enclave, self.client, self.upstream, self.server]
        for sock in self.all:
            sock.settimeout(0)

    def close(self) -> None:
        for sock in self.all:
            sock.close()


@pytest.fixture(params=["unix", "tcp"])
def wire(request: pytest.FixtureRequest) -> Generator[_Wire]:
    """Two connected pairs of each family that can carry a half-close."""
    wire = _Wire(request.param)
    yield wire
    wire.close()


@asynccontextmanager
async def _relaying(
    wire: _Wire, *, idle_s: float = _LONG_S, half_closed_s: float = _LONG_S, total_s: float = _LONG_S
) -> AsyncGenerator[tuple[Relay, asyncio.Task[RelayEnd]]]:
    relay = Relay(
        wire.client,
        wire.upstream,
        buffer=memoryview(bytearray(BUFFER_BYTES)),
        timeouts=RelayTimeouts(idle_s, half_closed_s, total_s),
        up=ByteCount(),
        down=ByteCount(),
    )

    async def run_and_close() -> RelayEnd:
        with wire.client, wire.upstream:
            return await relay.run()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_and_close())
        yield relay, task


async def _receive_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    while part := await loop.sock_recv(sock, 65536):
        parts.append(part)
    return b"".join(parts)


async def _send_all(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)


@settings(max_examples=25)
@given(
    up=st.lists(st.integers(0, 3 * BUFFER_BYTES), max_size=4),
    down=st.lists(st.integers(0, 3 * BUFFER_BYTES), max_size=4),
    family=st.sampled_from(["unix", "tcp"]),
)
def test_both_directions_arrive_whole_and_in_order(up: list[int], down: list[int], family: str) -> None:
    """Whatever the two sides write at the same time arrives as written, is counted, and ends orderly."""

    async def exchange() -> None:
        wire = _Wire(family)
        try:
            sent_up = b"".join(bytes([position]) * size for position, size in enumerate(up))
            sent_down = b"".join(bytes([255 - position]) * size for position, size in enumerate(down))
            async with _relaying(wire) as (relay, task), asyncio.TaskGroup() as group:
                group.create_task(_send_all(wire.enclave, sent_up))
                group.create_task(_send_all(wire.server, sent_down))
                at_server = group.create_task(_receive_all(wire.server))
                at_enclave = group.create_task(_receive_all(wire.enclave))
            assert at_server.result() == sent_up
            assert at_enclave.result() == sent_down
            assert (relay.bytes_up, relay.bytes_down) == (len(sent_up), len(sent_down))
            assert task.result().orderly
        finally:
            wire.close()

    asyncio.run(exchange())


async def test_a_half_close_is_carried_and_the_answer_comes_back(wire: _Wire) -> None:
    """The server sees the end of the request while its answer still flows to the client."""
    loop = asyncio.get_running_loop()
    async with _relaying(wire) as (_, task):
        await _send_all(wire.enclave, b"request")
        assert await _receive_all(wire.server) == b"request"
        await loop.sock_sendall(wire.server, b"answer")
        assert await loop.sock_recv(wire.enclave, 100) == b"answer"
        wire.server.close()
        assert await _receive_all(wire.enclave) == b""
    assert task.result() is RelayEnd.CLIENT_CLOSED


async def test_the_upstreams_half_close_is_carried_too(wire: _Wire) -> None:
    """The client sees the end of the answer and can still send."""
    loop = asyncio.get_running_loop()
    async with _relaying(wire) as (_, task):
        await _send_all(wire.server, b"greeting")
        assert await _receive_all(wire.enclave) == b"greeting"
        await loop.sock_sendall(wire.enclave, b"late")
        assert await loop.sock_recv(wire.server, 100) == b"late"
        wire.enclave.close()
        assert await _receive_all(wire.server) == b""
    assert task.result() is RelayEnd.UPSTREAM_CLOSED


async def _fill(sock: socket.socket) -> int:
    """Send until nothing has gone for several turns of the loop; return the bytes that went."""
    sent, idle_turns = 0, 0
    while idle_turns < 20:
        try:
            sent += sock.send(b"\x01" * 65536)
            idle_turns = 0
        except BlockingIOError:
            idle_turns += 1
        await asyncio.sleep(0)
    return sent


async def test_a_slow_reader_stops_the_sender_and_not_the_other_direction(wire: _Wire) -> None:
    """A server that sends without end is stopped by the kernel; the other direction flows; nothing is lost or mixed."""
    loop = asyncio.get_running_loop()
    for sock in wire.all:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    async with _relaying(wire) as (relay, task):
        sent = await _fill(wire.server)
        assert sent < 2 * 1024 * 1024
        async with asyncio.TaskGroup() as group:
            group.create_task(loop.sock_sendall(wire.enclave, b"\x02" * BUFFER_BYTES))
            received = group.create_task(_receive_exactly(wire.server, BUFFER_BYTES))
        assert received.result() == b"\x02" * BUFFER_BYTES
        wire.server.shutdown(socket.SHUT_WR)
        assert await _receive_all(wire.enclave) == b"\x01" * sent
        assert relay.bytes_down == sent
        wire.enclave.close()
    assert task.result() is RelayEnd.UPSTREAM_CLOSED


async def test_an_upstream_reset_ends_the_connection() -> None:
    """A reset of the destination in the middle of a stream closes the client's connection, and is called so."""
    wire = _Wire("tcp")
    with contextlib.closing(wire):
        async with _relaying(wire) as (_, task):
            await asyncio.get_running_loop().sock_sendall(wire.enclave, b"request")
            _reset(wire.server)
        assert task.result() is RelayEnd.UPSTREAM_RESET
        assert await _receive_all(wire.enclave) == b""


async def test_a_client_that_disappears_while_bytes_flow_ends_the_connection(wire: _Wire) -> None:
    """When the enclave dies in the middle of an answer the destination's connection is given up."""
    loop = asyncio.get_running_loop()
    async with _relaying(wire) as (_, task):
        await loop.sock_sendall(wire.server, bytes(1000))
        await loop.sock_recv(wire.enclave, 1)
        if wire.enclave.family == socket.AF_INET:
            _reset(wire.enclave)
        else:
            wire.enclave.close()  # with unread bytes: a reset for the other end
        await loop.sock_sendall(wire.server, bytes(1000))
    assert task.result() is RelayEnd.CLIENT_RESET


async def test_a_silent_connection_ends_after_the_idle_time(wire: _Wire) -> None:
    """No byte for the idle time ends it."""
    async with _relaying(wire, idle_s=_SHORT_S) as (_, task):
        assert await _receive_all(wire.enclave) == b""
    assert task.result() is RelayEnd.IDLE_TIMEOUT


async def test_a_reader_that_never_reads_counts_as_idle(wire: _Wire) -> None:
    """Bytes that nobody takes are no activity: such a connection ends after the idle time."""
    async with _relaying(wire, idle_s=0.2) as (_, task):
        with contextlib.suppress(OSError):
            while not task.done():
                await _fill(wire.server)
    assert task.result() is RelayEnd.IDLE_TIMEOUT


async def test_a_half_closed_connection_ends_after_its_own_time(wire: _Wire) -> None:
    """Once one side has closed, the other has only the shorter time to say something."""
    async with _relaying(wire, half_closed_s=_SHORT_S) as (_, task):
        wire.enclave.shutdown(socket.SHUT_WR)
    assert task.result() is RelayEnd.IDLE_TIMEOUT


async def test_a_busy_connection_ends_after_the_total_time(wire: _Wire) -> None:
    """Traffic does not lengthen the total time."""
    loop = asyncio.get_running_loop()
    async with _relaying(wire, total_s=0.05) as (_, task):
        with contextlib.suppress(OSError):
            while not task.done():
                await loop.sock_sendall(wire.enclave, b"x")
                await loop.sock_recv(wire.server, 100)
    assert task.result() is RelayEnd.TOTAL_TIMEOUT


async def test_draining_ends_an_idle_connection_and_not_a_busy_one(wire: _Wire) -> None:
    """While it drains a connection lives as long as bytes flow, then ends as drained."""
    loop = asyncio.get_running_loop()
    async with _relaying(wire) as (relay, task):
        relay.drain(60.0)  # long, so that a machine that stalls does not make a busy connection an idle one
        began = loop.time()
        while relay.last_moved <= began:
            await loop.sock_sendall(wire.enclave, b"x")
            assert await loop.sock_recv(wire.server, 100) == b"x"
        relay._watch_time()
        assert relay._timer is not None
        assert relay._timer.when() == relay.last_moved + 60.0
        assert not task.done()
        relay.drain(_SHORT_S)
    assert task.result() is RelayEnd.DRAINED


async def test_the_first_reason_stands(wire: _Wire) -> None:
    """A relay that has ended keeps its outcome, and draining it afterwards does nothing."""
    async with _relaying(wire) as (relay, task):
        relay.end(RelayEnd.TOTAL_TIMEOUT)
        relay.end(RelayEnd.CLIENT_RESET)
        relay.drain(0)
    assert task.result() is RelayEnd.TOTAL_TIMEOUT


async def test_cancelling_leaves_no_callback_behind(wire: _Wire) -> None:
    """A cancelled relay forgets its sockets and its timer."""
    loop = asyncio.get_running_loop()
    async with _relaying(wire) as (_, task):
        await asyncio.sleep(0)
        task.cancel()
    assert not loop.remove_reader(wire.enclave)
    assert task.cancelled()


async def test_towards_vsock_no_send_is_over_the_limit_and_an_end_is_the_end_of_all() -> None:
    """On vsock sends are cut to 31 KiB, and the destination's close closes the connection after the last byte."""
    wire = _Wire("unix")
    with contextlib.closing(wire):
        wire.client = _VsockLike(fileno=wire.client.detach())
        wire.client.sends = []
        wire.client.settimeout(0)
        wire.all[1] = wire.client
        async with _relaying(wire) as (_, task), asyncio.TaskGroup() as group:
            received = group.create_task(_receive_exactly(wire.enclave, 300_000))
            await _send_all(wire.server, b"\x01" * 300_000)
        assert received.result() == b"\x01" * 300_000
        assert task.result() is RelayEnd.UPSTREAM_CLOSED
        assert max(wire.client.sends) == MAX_VSOCK_SEND_BYTES


async def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        data += await loop.sock_recv(sock, size - len(data))
    return data
