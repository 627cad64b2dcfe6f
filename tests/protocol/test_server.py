"""The enclave's end against peers that are slow, silent, greedy, hostile, or simply many."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from protocol.errors import ErrorCode
from protocol.framing import encode_frame
from protocol.messages import Events
from protocol.server import ServerLimits
from protocol.transport import connect
from tests.protocol.wire import HELLO_BODY, STATUS_RESULT, Failures, Handler, raw_peer, request_frame, serving, until

if TYPE_CHECKING:
    from protocol.address import Address

SHORT_S = 0.05


async def assert_goes_on(address: Address, handler: Handler) -> None:
    """Check that a new connection is served as if nothing had happened."""
    handler.answers_at_once = True
    async with raw_peer(address) as peer:
        await peer.greet()
        await peer.ask("status", {}, 2)
        answer = await peer.receive()
        assert answer is not None
        assert (answer["id"], answer["type"]) == (2, "result")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\xff\xff\xff\xff", "frame_too_large", id="oversized"),
        pytest.param(bytes(4), "bad_frame", id="empty"),
        pytest.param(encode_frame(b"\x81" * 1000), "bad_frame", id="deep CBOR"),
        pytest.param(encode_frame(bytes.fromhex("9b00ffffffffffffff")), "bad_frame", id="huge CBOR"),
        pytest.param(encode_frame(bytes.fromhex("5b00ffffffffffffff") + b"x"), "bad_frame", id="huge byte string"),
        pytest.param(request_frame("status", {}, 7), "bad_frame", id="no hello"),
        pytest.param(
            request_frame("hello", {"versions": [9], "software": "x"}, 1), "unsupported_version", id="version"
        ),
        pytest.param(request_frame("hello", HELLO_BODY, 1) * 2, "bad_frame", id="duplicated"),
        pytest.param(
            request_frame("status", {}, 2) + request_frame("hello", HELLO_BODY, 1), "bad_frame", id="reordered"
        ),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", "frame_too_large", id="another protocol"),
    ],
)
async def test_a_breach_is_told_and_closes(address: Address, data: bytes, code: str) -> None:
    """The peer learns the code, the connection ends, and the server goes on."""
    handler = Handler()
    async with serving(address, handler):
        async with raw_peer(address) as peer:
            await peer.send(data)
            last = (await peer.rest())[-1]
            assert (last["id"], last["type"], last["body"]["code"]) == (0, "error", code)
        await assert_goes_on(address, handler)


async def test_a_truncated_frame_costs_nothing(address: Address) -> None:
    """A peer that ends in the middle of a frame is forgotten."""
    handler = Handler()
    async with serving(address, handler) as server:
        async with raw_peer(address) as peer:
            await peer.greet()
            await peer.send(request_frame("status", {}, 2)[:-1])
        await until(lambda: not server._connections)
        await assert_goes_on(address, handler)


@pytest.mark.parametrize("sent", [b"", b"\0", request_frame("hello", HELLO_BODY, 1)[:-1]])
async def test_a_hello_has_a_time_limit(address: Address, sent: bytes) -> None:
    """A silent peer, and one that never ends its hello, are cut off."""
    async with serving(address, Handler(), ServerLimits(frame_timeout_s=SHORT_S)), raw_peer(address) as peer:
        await peer.send(sent)
        answer = await peer.receive()
        assert answer is not None
        assert answer["body"]["code"] == ErrorCode.DEADLINE_EXCEEDED
        assert await peer.receive() is None


async def test_one_byte_at_a_time_is_cut_off(address: Address) -> None:
    """More bytes of the same frame buy no more time."""
    limits = ServerLimits(frame_timeout_s=SHORT_S)
    async with serving(address, Handler(), limits), raw_peer(address) as peer:
        await peer.greet()

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in (1000).to_bytes(4, "big") + bytes(1000):
                    await peer.send(bytes([byte]))
                    await asyncio.sleep(SHORT_S / 20)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(trickle())
            answer = await peer.receive()
            task.cancel()
        assert answer is not None
        assert answer["body"]["code"] == ErrorCode.DEADLINE_EXCEEDED


async def test_each_new_frame_has_its_own_time(address: Address) -> None:
    """A busy peer whose reads never end between two frames is not cut off."""
    handler = Handler()
    handler.answers_at_once = True
    async with serving(address, handler) as server, raw_peer(address) as peer:
        await peer.greet()
        [connection] = server._connections
        request = request_frame("status", {}, 2)
        await peer.send(request[:5])
        await until(lambda: connection._deadline is not None)
        first = connection._deadline
        assert first is not None
        await peer.send(request[5:] + request_frame("status", {}, 3)[:5])
        assert (await peer.receive() or {})["id"] == 2
        assert first.cancelled()
        assert connection._deadline is not None
        assert connection._deadline is not first
        await peer.send(request_frame("status", {}, 3)[5:])
        assert (await peer.receive() or {})["id"] == 3
        assert connection._deadline is None


async def test_a_peer_between_frames_may_be_silent(address: Address) -> None:
    """An idle parent stays connected: only half a frame has a time limit."""
    limits = ServerLimits(frame_timeout_s=SHORT_S)
    async with serving(address, Handler(), limits) as server, raw_peer(address) as peer:
        await peer.greet()
        [connection] = server._connections
        assert connection._deadline is None


async def test_a_peer_that_does_not_even_read_its_end_is_cut_off(address: Address) -> None:
    """The last frame is waited for as long as any other."""
    limits = ServerLimits(frame_timeout_s=SHORT_S)
    handler = Handler()
    handler.answers_at_once = True
    handler.result = STATUS_RESULT.model_copy(update={"counters": {"x" * 500_000: 1}})
    async with serving(address, handler, limits) as server, raw_peer(address) as peer:
        await peer.greet()
        for request_id in range(2, 10):
            await peer.ask("status", {}, request_id)
        [connection] = server._connections
        await until(lambda: not connection._is_writable)
        connection._close_with(ErrorCode.DEADLINE_EXCEEDED)
        await until(lambda: not server._connections)


async def test_a_peer_that_does_not_read_is_not_read(address: Address) -> None:
    """Answers pile up to a bound; then its requests wait with the peer. When it reads again, all is answered."""
    handler = Handler()
    handler.answers_at_once = True
    handler.result = STATUS_RESULT.model_copy(update={"counters": {"x" * 200_000: 1}})
    count = 40
    async with serving(address, handler, ServerLimits(max_in_flight=1000)) as server, raw_peer(address) as peer:
        await peer.greet()
        [connection] = server._connections
        for request_id in range(2, 2 + count):
            await peer.ask("status", {}, request_id)
        await until(lambda: not connection._is_writable)
        assert not server.publish(Events(events=(), dropped=1))
        await assert_goes_on(address, handler)
        handled = handler.handled
        for request_id in range(2 + count, 2 + 2 * count):
            await peer.ask("status", {}, request_id)
        await assert_goes_on(address, handler)
        assert handler.handled == handled + 1  # that of the other connection
        answers = [await peer.receive() for _ in range(2 * count)]
        assert {answer["id"] for answer in answers if answer} == set(range(2, 2 + 2 * count))


async def test_work_that_nobody_waits_for_ends(address: Address) -> None:
    """What a peer asked for before it was lost costs nothing more, and counts no longer."""
    handler = Handler()
    async with serving(address, handler) as server:
        async with raw_peer(address) as peer:
            await peer.greet()
            await peer.ask("status", {}, 2)
            await handler.started.get()
        await handler.cancelled.wait()
        await until(lambda: server.in_flight == 0)


async def test_a_bad_request_fails_alone(address: Address) -> None:
    """An unknown type and a body of another form are answered; the connection goes on."""
    handler = Handler()
    handler.answers_at_once = True
    async with serving(address, handler), raw_peer(address) as peer:
        await peer.greet()
        await peer.ask("sing", {}, 2)
        await peer.ask("status", {"extra": 1}, 3)
        await peer.ask("status", {}, 4)
        frames = [await peer.receive() for _ in range(3)]
        assert [(frame["id"], frame["type"]) for frame in frames if frame] == [
            (2, "error"),
            (3, "error"),
            (4, "result"),
        ]


async def test_too_much_at_once_is_refused(address: Address) -> None:
    """A peer that ignores the limit of `hello` gets `overloaded` for what is too much."""
    handler = Handler()
    async with serving(address, handler, ServerLimits(max_in_flight=2)) as server, raw_peer(address) as peer:
        await peer.greet()
        for request_id in (2, 3, 4):
            await peer.ask("status", {}, request_id)
        answer = await peer.receive()
        assert answer is not None
        assert (answer["id"], answer["body"]["code"]) == (4, "overloaded")
        for _ in range(2):
            (await handler.started.get()).set_result(None)
        assert {(await peer.receive() or {})["id"] for _ in range(2)} == {2, 3}
        assert server.in_flight == 0


async def test_a_bug_in_a_request_ends_nothing_else(address: Address) -> None:
    """It is reported here and `internal` there; no text crosses."""
    handler, failures = Handler(), Failures()
    handler.answers_at_once, handler.error = True, RuntimeError("a secret in an error text")
    async with serving(address, handler, failures=failures), raw_peer(address) as peer:
        await peer.greet()
        await peer.ask("status", {}, 2)
        answer = await peer.receive()
        assert answer is not None
        assert answer["body"] == {"code": "internal", "retryable": True}
    assert failures.names == ["request_failed"]


async def test_an_answer_larger_than_a_frame_is_our_fault(address: Address) -> None:
    """It becomes `internal`, and is reported."""
    handler, failures = Handler(), Failures()
    handler.answers_at_once = True
    handler.result = STATUS_RESULT.model_copy(update={"counters": {"x" * 1000: 1}})
    limits = ServerLimits(max_frame_bytes=600)
    async with serving(address, handler, limits, failures), raw_peer(address) as peer:
        await peer.greet()
        await peer.ask("status", {}, 2)
        assert (await peer.receive() or {})["body"]["code"] == "internal"
    assert failures.names == ["answer_too_large"]


async def test_answers_after_the_end_go_nowhere(address: Address) -> None:
    """Work that ends after a breach finds a closed session and leaves it alone; so do later bytes."""
    handler, failures = Handler(), Failures()
    async with serving(address, handler, failures=failures) as server, raw_peer(address) as peer:
        await peer.greet()
        await peer.ask("status", {}, 2)
        await peer.ask("status", {}, 3)
        first, second = await handler.started.get(), await handler.started.get()
        [connection] = server._connections
        connection.data_received(bytes(4))
        connection.data_received(b"more")
        connection.refuse(3, ErrorCode.INTERNAL)
        connection.answer(2, STATUS_RESULT)
        first.set_result(None)
        second.set_result(None)
        assert (await peer.receive() or {})["body"]["code"] == "bad_frame"
        assert await peer.receive() is None
    assert failures.names == []


async def test_half_a_connection_is_closed(address: Address) -> None:
    """A peer that stops sending is not kept."""
    async with serving(address, Handler()) as server:
        with await connect(address, timeout_s=5) as sock:
            await until(lambda: server._connections)
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: not server._connections)


async def test_ten_thousand_connections_opened_and_dropped(address: Address) -> None:
    """The server counts none of them afterwards and serves the next one."""
    handler = Handler()
    async with serving(address, handler, ServerLimits(max_connections=8)) as server:
        for number in range(10_000):
            with await connect(address, timeout_s=30):
                if number % 100 == 0:
                    await asyncio.sleep(0)
        while True:  # those that were dropped before they were accepted still stand before us in the backlog
            async with raw_peer(address) as peer:
                await peer.ask("hello", HELLO_BODY, 1)
                answer = await peer.receive()
                if answer is not None and answer["type"] == "result":
                    break
        await until(lambda: not server._connections)
        await assert_goes_on(address, handler)


async def test_a_stopped_server_leaves_nothing_open(address: Address) -> None:
    """Cancelled with a connection open and work in flight, it ends, and the peer sees the end."""
    handler = Handler()
    async with contextlib.AsyncExitStack() as stack:
        async with serving(address, handler):
            peer = await stack.enter_async_context(raw_peer(address))
            await peer.greet()
            await peer.ask("status", {}, 2)
            await handler.started.get()
        assert handler.cancelled.is_set()
        assert await peer.rest() == []
