"""The parent's end over real sockets: many calls, cancellation at every step, lost connections, bad enclaves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from protocol.address import Address, UnixAddress
from protocol.cbor import encode
from protocol.channel import Channel, open_channel
from protocol.errors import ErrorCode, LocalProtocolError, SignerError
from protocol.framing import encode_frame
from protocol.messages import Events, Generate, GenerateItem, Status, StatusResult
from protocol.server import ServerLimits
from protocol.transport import listen
from tests.protocol.wire import LONG_S, STATUS_RESULT, Handler, channel_to, request_frame, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def ask(channel: Channel) -> StatusResult:
    """Make one call."""
    result = await channel.call(Status(), timeout_s=LONG_S)
    assert isinstance(result, StatusResult)
    return result


async def test_a_call_and_its_answer(address: Address) -> None:
    """Over each family that this machine has."""
    handler = Handler()
    handler.answers_at_once = True
    async with serving(address, handler), channel_to(address) as channel:
        assert channel.is_open
        assert channel.hello == handler.hello
        assert await ask(channel) == STATUS_RESULT
        assert channel.in_flight == 0


async def test_answers_reach_their_callers_in_any_order(address: Address) -> None:
    """The last request is answered first."""
    handler = Handler()
    async with serving(address, handler), channel_to(address) as channel, asyncio.TaskGroup() as group:
        calls = [group.create_task(ask(channel)) for _ in range(5)]
        releases = [await handler.started.get() for _ in calls]
        for call, release in reversed(list(zip(calls, releases, strict=True))):
            release.set_result(None)
            await call
            assert not any(other.done() for other in calls[: calls.index(call)])


async def test_an_error_keeps_its_code(address: Address) -> None:
    """The enclave's code comes out of the call."""
    handler = Handler()
    handler.answers_at_once, handler.error = True, SignerError(ErrorCode.KMS_DENIED, "never crosses")
    async with serving(address, handler), channel_to(address) as channel:
        with pytest.raises(SignerError) as refused:
            await ask(channel)
    assert refused.value.code is ErrorCode.KMS_DENIED
    assert "never crosses" not in refused.value.detail


async def test_a_cancelled_call_leaves_the_channel_whole(address: Address) -> None:
    """Cancelled after any number of steps: the next call gets its own answer, and no slot is lost."""
    handler = Handler(max_in_flight=2)
    async with serving(address, handler), channel_to(address) as channel:
        for steps in range(12):
            async with asyncio.TaskGroup() as group:
                call = group.create_task(ask(channel))
                for _ in range(steps):
                    await asyncio.sleep(0)
                call.cancel()
            while not handler.started.empty():
                handler.started.get_nowait().set_result(None)
            handler.answers_at_once = True
            assert await ask(channel) == STATUS_RESULT
            assert await ask(channel) == STATUS_RESULT
            handler.answers_at_once = False
        while channel.in_flight:
            (await handler.started.get()).set_result(None)


async def test_a_late_answer_gives_its_slot_back(address: Address) -> None:
    """A call that was given up holds its slot at the enclave until it is answered there, and no longer."""
    handler = Handler(max_in_flight=1)
    async with serving(address, handler), channel_to(address) as channel:
        with pytest.raises(SignerError) as late:
            await channel.call(Status(), timeout_s=0.01)
        assert late.value.code is ErrorCode.DEADLINE_EXCEEDED
        assert channel.in_flight == 1
        with pytest.raises(SignerError):
            await channel.call(Status(), timeout_s=0.01)  # waits for the slot, and gives up waiting
        (await handler.started.get()).set_result(None)
        handler.answers_at_once = True
        assert await ask(channel) == STATUS_RESULT


async def test_no_more_in_flight_than_the_enclave_takes(address: Address) -> None:
    """The channel holds calls back, so that the enclave need not refuse them."""
    handler = Handler(max_in_flight=2)
    async with serving(address, handler), channel_to(address) as channel, asyncio.TaskGroup() as group:
        calls = [group.create_task(ask(channel)) for _ in range(6)]
        for _ in calls:
            release = await handler.started.get()
            assert channel.in_flight <= 2
            release.set_result(None)


async def test_a_lost_connection_fails_every_call(address: Address) -> None:
    """Those that wait for an answer, those that wait for a slot, and those that come later."""
    handler = Handler(max_in_flight=2)
    async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(address, handler))
        channel = await stack.enter_async_context(channel_to(address))
        calls = [group.create_task(_code_of(ask(channel))) for _ in range(5)]
        await handler.started.get()
        await handler.started.get()
        for connection in tuple(server._connections):
            connection.abort()
        assert {await call for call in calls} == {ErrorCode.ENCLAVE_UNAVAILABLE}
        await channel.wait_closed()
        assert not channel.is_open
        assert await _code_of(ask(channel)) is ErrorCode.ENCLAVE_UNAVAILABLE


async def _code_of(call: object) -> ErrorCode | None:
    try:
        await call  # type: ignore[misc]  # any awaitable
    except SignerError as error:
        return error.code
    return None


async def test_the_server_works_on_no_request_of_a_lost_connection(address: Address) -> None:
    """Work that nobody waits for is stopped."""
    handler = Handler()
    async with serving(address, handler):
        async with asyncio.TaskGroup() as group, channel_to(address) as channel:
            group.create_task(_code_of(ask(channel)))
            await handler.started.get()
            channel.close()
        await handler.cancelled.wait()


async def test_an_answer_that_meets_a_cancelled_caller(address: Address) -> None:
    """Cancelled and answered, or cut, in one turn of the event loop: nobody is told, and nothing breaks."""
    handler = Handler(max_in_flight=1)
    async with serving(address, handler), channel_to(address) as channel:
        meetings: list[Callable[[], None]] = [
            lambda: channel.data_received(request_frame("result", STATUS_RESULT.model_dump(), 2)),
            lambda: channel.connection_lost(None),
        ]
        for meets in meetings:
            async with asyncio.TaskGroup() as group:
                call = group.create_task(ask(channel))
                await handler.started.get()
                call.cancel()
                meets()
            assert call.cancelled()
        assert not channel.is_open


async def test_events_are_handed_on(address: Address) -> None:
    """To who asked for them; a channel that did not gets none."""
    received: list[Events] = []
    handler = Handler()
    handler.answers_at_once = True
    events = Events(events=({"event": "x"},), dropped=0)
    async with serving(address, handler) as server:
        async with channel_to(address):
            assert not server.publish(events)
        async with channel_to(address, on_events=received.append) as channel:
            assert server.publish(events)
            await ask(channel)  # frames keep their order
    assert received == [events]


async def test_events_that_nobody_asked_for_are_ignored(address: Address) -> None:
    """They are harmless."""
    handler = Handler()
    handler.answers_at_once = True
    async with serving(address, handler) as server, channel_to(address) as channel:
        for connection in server._connections:
            connection._wants_events = True
        assert server.publish(Events(events=(), dropped=1))
        assert await ask(channel) == STATUS_RESULT


async def test_nobody_listens(tmp_path: Path) -> None:
    """One error for every reason for which no enclave answers."""
    with pytest.raises(SignerError, match="no enclave answers at unix://") as refused:
        async with channel_to(UnixAddress(str(tmp_path / "nobody"))):
            pass
    assert refused.value.code is ErrorCode.ENCLAVE_UNAVAILABLE


async def test_an_enclave_that_says_nothing(tmp_path: Path) -> None:
    """The time limit covers the hello."""
    address = UnixAddress(str(tmp_path / "s"))
    with listen(address), pytest.raises(SignerError) as refused:
        async with open_channel(address, software="test", timeout_s=0.05):
            pass
    assert refused.value.code is ErrorCode.ENCLAVE_UNAVAILABLE


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame_too_large"),
        (encode_frame(b"\xff"), "bad_frame"),
        (encode_frame(encode({"v": 2, "id": 1, "type": "result", "body": {}})), "version 2, we speak"),
        (request_frame("result", {}, 9), "not in flight"),
    ],
)
async def test_what_answers_is_no_enclave(tmp_path: Path, answer: bytes, text: str) -> None:
    """The connection is closed, and the reason is told."""
    address = UnixAddress(str(tmp_path / "s"))
    loop = asyncio.get_running_loop()

    async def impostor() -> None:
        sock, _ = await loop.sock_accept(listener)
        with sock:
            await loop.sock_sendall(sock, answer)
            while await loop.sock_recv(sock, 1 << 16):
                pass

    with listen(address) as listener:
        async with asyncio.TaskGroup() as group:
            group.create_task(impostor())
            with pytest.raises(SignerError, match=text) as refused:
                async with channel_to(address):
                    pass
    assert refused.value.code is ErrorCode.ENCLAVE_UNAVAILABLE


async def test_an_enclave_with_too_many_connections(address: Address) -> None:
    """The last one is told so, and the first ones go on."""
    handler = Handler()
    handler.answers_at_once = True
    async with serving(address, handler, ServerLimits(max_connections=1)), channel_to(address) as channel:
        with pytest.raises(SignerError) as refused:
            async with channel_to(address):
                pass
        assert refused.value.code is ErrorCode.ENCLAVE_UNAVAILABLE
        assert "overloaded" in refused.value.detail
        assert await ask(channel) == STATUS_RESULT


async def test_a_request_that_is_too_large_is_ours_alone(address: Address) -> None:
    """It is not sent, takes no slot, and the channel goes on."""
    handler = Handler(max_in_flight=1, max_frame_bytes=200)
    handler.answers_at_once = True
    large = Generate(items=tuple(GenerateItem(userid="u" * 100) for _ in range(10)))
    async with serving(address, handler), channel_to(address) as channel:
        for _ in range(3):
            with pytest.raises(LocalProtocolError):
                await channel.call(large, timeout_s=LONG_S)
        assert await ask(channel) == STATUS_RESULT


async def test_calls_wait_while_the_enclave_does_not_read(address: Address) -> None:
    """Back pressure holds new calls; it lifts, and they go on."""
    handler = Handler(max_in_flight=100)
    handler.answers_at_once = True
    async with serving(address, handler), channel_to(address) as channel:
        channel.pause_writing()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(ask(channel))
            for _ in range(10):
                await asyncio.sleep(0)
            assert (call.done(), channel.in_flight) == (False, 0)
            channel.resume_writing()


async def test_calls_that_wait_for_the_enclave_to_read_fail_with_the_connection(address: Address) -> None:
    """At once: they do not wait out their time."""
    async with serving(address, Handler()), channel_to(address) as channel:
        channel.pause_writing()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(_code_of(ask(channel)))
            await asyncio.sleep(0)
            channel.close()
        assert call.result() is ErrorCode.ENCLAVE_UNAVAILABLE


async def test_a_channel_that_is_cancelled_while_it_opens(tmp_path: Path) -> None:
    """After any number of steps nothing is left open: a ResourceWarning would fail this test."""
    address = UnixAddress(str(tmp_path / "s"))

    async def hold() -> None:
        async with channel_to(address):
            await asyncio.Event().wait()

    async with serving(address, Handler()) as server:
        for steps in range(15):
            async with asyncio.TaskGroup() as group:
                opening = group.create_task(hold())
                for _ in range(steps):
                    await asyncio.sleep(0)
                opening.cancel()
        async with channel_to(address):
            assert server._connections
