"""One destination's server under every fault that the two sides and DNS can show."""

import asyncio
import errno
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
from structlog.testing import capture_logs

from protocol.address import Address
from protocol.transport import StreamSocket, connect
from workers.proxy import server as server_module
from workers.proxy.causes import ConnectFailure, Refusal, RelayEnd
from workers.proxy.resolver import AddressInfo
from workers.proxy.server import DestinationServer

Handler = Callable[[socket.socket], Awaitable[None]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
ServeUpstream = Callable[[Handler], AbstractAsyncContextManager[AddressInfo]]
RunServer = Callable[..., AbstractAsyncContextManager[tuple[DestinationServer, asyncio.Event]]]


async def _echo(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(connection, 65536):
        await loop.sock_sendall(connection, data)


async def _ask(address: Address, request: bytes = b"ping") -> bytes:
    """Send, and return what comes back until as much has come or the proxy closes."""
    loop = asyncio.get_running_loop()
    with await connect(address, timeout_s=5) as client:
        answer = b""
        try:
            await loop.sock_sendall(client, request)
            while len(answer) < len(request) and (data := await loop.sock_recv(client, 65536)):
                answer += data
        except (ConnectionResetError, BrokenPipeError):  # a refusal that comes before our bytes have been read
            return b""
        return answer


async def test_bytes_go_through(run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address) -> None:
    """What is sent comes back from the destination; connection, bytes and connect time are counted."""
    async with serve_upstream(_echo) as upstream, run_server([upstream]) as (server, _):
        assert await _ask(listen_address, bytes(200_000)) == bytes(200_000)
    counts = server.metrics.counts()
    assert (counts["Accepted"], counts["Connected"], server.metrics.open) == (1, 1, 0)
    assert (counts["BytesUp"], counts["BytesDown"]) == (200_000, 200_000)
    assert len(server.metrics.connect_ms.values) == 1


async def test_a_refusing_destination_closes_the_connection(
    run_server: RunServer, refusing_address: AddressInfo, listen_address: Address
) -> None:
    """The client is not left waiting, and the cause is counted and logged."""
    with capture_logs() as logs:
        async with run_server([refusing_address]) as (server, _):
            assert await _ask(listen_address) == b""
    assert server.metrics.failed == {ConnectFailure.REFUSED: 1}
    assert {"event": "connect_failed", "cause": "connect_refused", "error": "ECONNREFUSED"}.items() <= next(
        line for line in logs if line["event"] == "connect_failed"
    ).items()


async def test_a_hanging_destination_ends_at_the_connect_time_out(
    run_server: RunServer, hanging_address: AddressInfo, listen_address: Address
) -> None:
    """A destination that never answers costs the client the connect time-out and no more."""
    async with run_server([hanging_address, hanging_address], connect_timeout_s=0.05) as (server, _):
        assert await _ask(listen_address) == b""
    assert server.metrics.failed == {ConnectFailure.TIMEOUT: 1}


@pytest.mark.parametrize("dead", ["refusing_address", "hanging_address"])
async def test_a_dead_first_address_is_overtaken_and_remembered(
    dead: str,
    request: pytest.FixtureRequest,
    run_server: RunServer,
    serve_upstream: ServeUpstream,
    listen_address: Address,
) -> None:
    """The second address serves when the first refuses or hangs, and from then on it is tried first."""
    first: AddressInfo = request.getfixturevalue(dead)
    async with (
        serve_upstream(_echo) as upstream,
        run_server([first, upstream], connect_attempt_delay_s=0.02) as (server, _),
    ):
        assert await _ask(listen_address) == b"ping"
        assert server._dialer._order == [upstream, first]
        assert await _ask(listen_address) == b"ping"
    assert server.metrics.failed.total() == 0


async def test_every_address_is_tried(
    run_server: RunServer, serve_upstream: ServeUpstream, refusing_address: AddressInfo, listen_address: Address
) -> None:
    """The last of several addresses is reached when all before it refuse."""
    async with serve_upstream(_echo) as upstream, run_server([*[refusing_address] * 5, upstream]):
        assert await _ask(listen_address) == b"ping"


async def test_dns_that_fails_at_first_does_not_end_the_proxy(
    run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """Without an answer connections are closed with the cause dns; once there is one they are served."""
    dns_works = asyncio.Event()
    async with serve_upstream(_echo) as upstream:

        async def lookup(host: str, port: int) -> Sequence[AddressInfo]:
            if not dns_works.is_set():
                raise socket.gaierror(-3, f"no answer for {host}:{port}")
            return [upstream]

        async with run_server(lookup, dns_retry_s=0.001) as (server, _):
            assert await _ask(listen_address) == b""
            assert server.metrics.failed == {ConnectFailure.DNS: 1}
            dns_works.set()
            while await _ask(listen_address) != b"ping":
                pass


async def test_all_addresses_dead_makes_dns_look_again(
    run_server: RunServer, serve_upstream: ServeUpstream, refusing_address: AddressInfo, listen_address: Address
) -> None:
    """A destination that has moved is found without waiting for the refresh interval."""
    async with serve_upstream(_echo) as upstream:
        answers = iter([refusing_address])

        async def lookup(host: str, port: int) -> Sequence[AddressInfo]:
            assert (host, port) == ("kms.test", 443)
            return [next(answers, upstream)]

        async with run_server(lookup, dns_retry_s=0.001, dns_refresh_s=86400.0):
            assert await _ask(listen_address) == b""
            while await _ask(listen_address) != b"ping":
                pass


async def test_an_unlisted_destination_is_refused(
    run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """The connection is closed, the refusal logged, and the destination never sees a connection."""
    reached = asyncio.Event()

    async def handler(connection: socket.socket) -> None:
        reached.set()
        await _echo(connection)

    with capture_logs() as logs:
        async with (
            serve_upstream(handler) as upstream,
            run_server([upstream], listed=(("a.test", 444),)) as (server, _),
        ):
            assert await _ask(listen_address) == b""
    assert not reached.is_set()
    assert server.metrics.refused == {Refusal.NOT_ALLOWED: 1}
    assert [line["event"] for line in logs if line.get("cause") == "not_allowed"] == [
        "destination_not_allowed",
        "connection_refused",
    ]


async def test_a_full_proxy_refuses_at_once_and_recovers(
    run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """Over the cap a connection is closed at once; the open one goes on; room is room again."""
    loop = asyncio.get_running_loop()
    async with serve_upstream(_echo) as upstream, run_server([upstream], max_connections=1) as (server, _):
        with await connect(listen_address, timeout_s=5) as first:
            await loop.sock_sendall(first, b"a")
            assert await loop.sock_recv(first, 10) == b"a"
            assert await _ask(listen_address) == b""
            await loop.sock_sendall(first, b"b")
            assert await loop.sock_recv(first, 10) == b"b"
        while await _ask(listen_address) != b"ping":
            pass
    assert server.metrics.refused[Refusal.CAPACITY] >= 1


@pytest.mark.parametrize("cid", [17, None, OSError(errno.ENOTCONN, "gone")])
async def test_only_the_configured_peers_are_served(
    cid: int | OSError | None,
    monkeypatch: pytest.MonkeyPatch,
    run_server: RunServer,
    serve_upstream: ServeUpstream,
    listen_address: Address,
) -> None:
    """Another enclave's CID is refused, and so is a peer that has gone; a Unix socket has no CID to check."""

    def peer_cid(_: socket.socket) -> int | None:
        if isinstance(cid, OSError):
            raise cid
        return cid

    monkeypatch.setattr(server_module, "peer_cid", peer_cid)
    async with serve_upstream(_echo) as upstream, run_server([upstream], peer_cids=[16]) as (server, _):
        assert await _ask(listen_address) == (b"ping" if cid is None else b"")
    assert server.metrics.refused == ({} if cid is None else {Refusal.PEER_CID: 1})


async def test_the_configured_peer_is_served(
    monkeypatch: pytest.MonkeyPatch, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """The enclave whose CID is configured gets through."""
    monkeypatch.setattr(server_module, "peer_cid", lambda _: 16)
    async with serve_upstream(_echo) as upstream, run_server([upstream], peer_cids=[16]):
        assert await _ask(listen_address) == b"ping"


async def test_a_reset_in_mid_stream_reaches_the_client_and_nobody_else(
    run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """One connection's reset closes that client's connection; the neighbour's goes on."""
    loop = asyncio.get_running_loop()

    async def handler(connection: socket.socket) -> None:
        while data := await loop.sock_recv(connection, 100):
            if data == b"reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            await loop.sock_sendall(connection, data)

    async with serve_upstream(handler) as upstream, run_server([upstream]) as (server, _):
        with await connect(listen_address, timeout_s=5) as neighbour:
            await loop.sock_sendall(neighbour, b"a")
            assert await loop.sock_recv(neighbour, 10) == b"a"
            assert await _ask(listen_address, b"reset") == b""
            await loop.sock_sendall(neighbour, b"b")
            assert await loop.sock_recv(neighbour, 10) == b"b"
    assert server.metrics.ended[RelayEnd.UPSTREAM_RESET] == 1


async def test_a_failure_nobody_thought_of_ends_one_connection(
    monkeypatch: pytest.MonkeyPatch, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """A bug met by one connection is counted as internal, and the next connection is served."""
    async with serve_upstream(_echo) as upstream, run_server([upstream]) as (server, _):
        with monkeypatch.context() as patch:
            patch.setattr(server._dialer, "connect", lambda: None)
            assert await _ask(listen_address) == b""
        assert await _ask(listen_address) == b"ping"
    assert server.metrics.failed == {ConnectFailure.INTERNAL: 1}


async def test_draining_lets_an_exchange_finish_and_takes_no_new_one(
    until: Until, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """After the stop the listener is closed at once, a connection in use finishes, an idle one is closed."""
    loop = asyncio.get_running_loop()
    async with serve_upstream(_echo) as upstream:
        idle = busy = None
        async with run_server([upstream], drain_idle_s=2.0) as (server, stop):
            idle = await connect(listen_address, timeout_s=5)
            busy = await connect(listen_address, timeout_s=5)
            await until(lambda: server.metrics.connected == 2)
            stop.set()
            await until(lambda: server._draining)
            with pytest.raises(OSError):  # noqa: PT011 - refused on a Unix socket, reset on vsock
                await connect(listen_address, timeout_s=5)
            for _ in range(10):
                await loop.sock_sendall(busy, b"x")
                assert await loop.sock_recv(busy, 10) == b"x"
            assert server.metrics.open >= 1
        with idle, busy:
            assert await loop.sock_recv(idle, 10) == b""
            assert await loop.sock_recv(busy, 10) == b""
    assert server.metrics.ended == {RelayEnd.DRAINED: 2}


async def test_the_drain_deadline_ends_what_is_left(
    until: Until, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """A connection that never falls silent is ended at the deadline."""
    loop = asyncio.get_running_loop()
    async with serve_upstream(_echo) as upstream:

        async def chatter(client: StreamSocket) -> None:
            with client:
                try:
                    while True:
                        await loop.sock_sendall(client, b"x")
                        if not await loop.sock_recv(client, 10):
                            return
                except (ConnectionResetError, BrokenPipeError):
                    return

        async with (
            asyncio.TaskGroup() as group,
            run_server([upstream], drain_timeout_s=0.1, drain_idle_s=60.0) as (server, stop),
        ):
            group.create_task(chatter(await connect(listen_address, timeout_s=5)))
            await until(lambda: server.metrics.connected == 1)
            stop.set()
    assert server.metrics.ended == {RelayEnd.DRAINED: 1}
    assert server.metrics.open == 0


async def test_the_drain_deadline_ends_a_connection_attempt(
    until: Until, run_server: RunServer, hanging_address: AddressInfo, listen_address: Address
) -> None:
    """A connection that is still being made at the deadline is given up."""
    async with run_server([hanging_address], drain_timeout_s=0.05, connect_timeout_s=60.0) as (server, stop):
        client = await connect(listen_address, timeout_s=5)
        await until(lambda: server.metrics.open == 1)
        stop.set()
    with client:
        assert await asyncio.get_running_loop().sock_recv(client, 10) == b""
    assert server.metrics.open == 0


async def test_a_connection_made_while_draining_is_drained_as_well(
    until: Until, run_server: RunServer, serve_upstream: ServeUpstream, listen_address: Address
) -> None:
    """An attempt that succeeds after the stop does not live on with the ordinary idle time."""
    answer_now = asyncio.Event()
    async with serve_upstream(_echo) as upstream:

        async def lookup(host: str, port: int) -> Sequence[AddressInfo]:
            await answer_now.wait()
            assert (host, port) == ("kms.test", 443)
            return [upstream]

        async with run_server(lookup, drain_timeout_s=60.0) as (server, stop):
            client = await connect(listen_address, timeout_s=5)
            await until(lambda: server.metrics.open == 1)
            stop.set()
            await until(lambda: server._draining)
            answer_now.set()
    client.close()
    assert server.metrics.ended == {RelayEnd.DRAINED: 1}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPERM])
async def test_a_failing_accept_is_got_over(
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    run_server: RunServer,
    serve_upstream: ServeUpstream,
    listen_address: Address,
) -> None:
    """Without a free descriptor the proxy pauses and goes on; any other failure of accept is one connection's."""
    failures = [OSError(number, "no")]
    accept = StreamSocket.accept

    def failing(listener: StreamSocket) -> tuple[StreamSocket, object]:
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(StreamSocket, "accept", failing)
    async with serve_upstream(_echo) as upstream, run_server([upstream]):
        assert await _ask(listen_address) == b"ping"
    assert not failures
