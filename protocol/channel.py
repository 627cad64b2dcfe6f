"""The parent's end of a connection to an enclave process: many requests in flight, matched by id."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import cast

from protocol.address import Address
from protocol.errors import ErrorCode, RemoteProtocolError, SignerError
from protocol.framing import DEFAULT_MAX_FRAME_BYTES
from protocol.messages import SUPPORTED_VERSIONS, Events, Hello, HelloResult, Request, Result
from protocol.session import Answered, ClientEvent, ClientSession, Dropped
from protocol.transport import connect


class Channel(asyncio.Protocol):
    """A connection after its hello. Made by `open_channel`.

    Attributes:
        hello: what the enclave said of itself when the connection was made.
    """

    hello: HelloResult

    def __init__(self, max_frame_bytes: int, on_events: Callable[[Events], None] | None) -> None:
        self._session = ClientSession(max_frame_bytes)
        self._on_events = on_events
        self._waiting: dict[int, asyncio.Future[Result]] = {}
        self._transport: asyncio.Transport | None = None
        self._lost: SignerError | None = None
        self._closed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._slots = asyncio.Semaphore(1)

    @property
    def is_open(self) -> bool:
        """Whether a call has a chance."""
        return self._lost is None

    @property
    def in_flight(self) -> int:
        """How many requests the enclave has not answered."""
        return self._session.in_flight

    async def wait_closed(self) -> None:
        """Return when the connection is gone, from whichever side."""
        await self._closed.wait()

    async def call(self, request: Request, *, timeout_s: float) -> Result:
        """Send a request and return its result. A cancelled or late call leaves the connection whole.

        Raises:
            SignerError: the enclave's code; `enclave_unavailable` when the connection is lost; `deadline_exceeded`.
            LocalProtocolError: the request is larger than the enclave takes.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()  # given back when the answer comes, however late: see `data_received`
                try:
                    await self._writable.wait()
                    request_id, frame = self._begin(request)
                except BaseException:
                    self._slots.release()
                    raise
                return await self._finish(request_id, frame)
        except TimeoutError as error:
            raise SignerError(ErrorCode.DEADLINE_EXCEEDED) from error

    def _begin(self, request: Request) -> tuple[int, bytes]:
        if self._lost is not None:
            raise SignerError(self._lost.code, self._lost.detail)  # a new one: a traceback belongs to one caller
        return self._session.send(request)

    async def _finish(self, request_id: int, frame: bytes) -> Result:
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        cast("asyncio.Transport", self._transport).write(frame)
        try:
            return await answer
        finally:
            del self._waiting[request_id]
            self._session.abandon(request_id)

    async def greet(self, hello: Hello) -> HelloResult:
        """Do the first exchange."""
        request_id, frame = self._session.start(hello)
        await self._slots.acquire()
        result = cast("HelloResult", await self._finish(request_id, frame))
        self._slots = asyncio.Semaphore(result.limits.max_in_flight)
        return result

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand each answer to its caller."""
        try:
            for event in self._session.receive_data(data):
                self._deliver(event)
        except RemoteProtocolError as error:
            self._lose(SignerError(ErrorCode.ENCLAVE_UNAVAILABLE, f"the connection broke: {error}"))

    def _deliver(self, event: ClientEvent) -> None:
        if isinstance(event, Events):
            if self._on_events is not None:
                self._on_events(event)
            return
        self._slots.release()
        if isinstance(event, Dropped):
            return
        answer = self._waiting[event.request_id]
        if answer.done():
            return  # its caller was cancelled in this very turn of the event loop
        if isinstance(event, Answered):
            answer.set_result(event.result)
        else:
            answer.set_exception(event.error)

    def pause_writing(self) -> None:
        """Hold new calls: the enclave does not read fast enough."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let calls through again."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        del exc  # what the operating system says adds nothing that a caller could act on
        self._lose(SignerError(ErrorCode.ENCLAVE_UNAVAILABLE, "the connection to the enclave is lost"))
        self._closed.set()

    def _lose(self, error: SignerError) -> None:
        if self._lost is None:
            self._lost = error
            self._session.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(SignerError(self._lost.code, self._lost.detail))
        self._writable.set()
        self._slots.release()  # who waits for a slot wakes, meets the loss, and wakes the next
        self.close()

    def close(self) -> None:
        """Close the connection now; what the enclave has not read yet is lost."""
        if self._transport is not None:
            self._transport.abort()


@contextlib.asynccontextmanager
async def open_channel(
    address: Address,
    *,
    software: str,
    timeout_s: float,
    on_events: Callable[[Events], None] | None = None,
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
) -> AsyncGenerator[Channel, None]:
    """Connect, say hello, and close at the end. `on_events` receives the enclave's log events, if given.

    Raises:
        SignerError: `enclave_unavailable` with the reason: nobody listens, no answer in time, versions do not overlap.
    """
    channel = Channel(max_frame_bytes, on_events)
    hello = Hello(versions=SUPPORTED_VERSIONS, software=software, events=on_events is not None)
    try:
        async with asyncio.timeout(timeout_s):
            sock = await connect(address, timeout_s=timeout_s)
            await asyncio.get_running_loop().create_connection(lambda: channel, sock=sock)
            channel.hello = await channel.greet(hello)
    except (OSError, TimeoutError) as error:
        channel.close()
        raise SignerError(ErrorCode.ENCLAVE_UNAVAILABLE, f"no enclave answers at {address}") from error
    except BaseException:
        channel.close()
        raise
    try:
        yield channel
    finally:
        channel.close()
        await channel.wait_closed()
