"""A scripted handler, a running server, and a raw connection, for the tests of channel and server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from protocol.cbor import decode, encode
from protocol.channel import Channel, open_channel
from protocol.framing import FrameDecoder, encode_frame
from protocol.messages import (
    EnclaveFacts,
    Hello,
    HelloResult,
    Limits,
    Request,
    Result,
    Role,
    StatusResult,
)
from protocol.server import Server, ServerLimits
from protocol.transport import StreamSocket, connect, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from protocol.address import Address

LONG_S = 30.0
STATUS_RESULT = StatusResult(ready=True, reason=None, credentials_expire_in_s=None, in_flight=0, counters={})
HELLO_BODY = {"versions": [1], "software": "raw", "events": False}


class Handler:
    """Answers hello; every other request waits for the test, unless `answers_at_once`."""

    def __init__(self, *, max_in_flight: int = 8, max_frame_bytes: int = 1 << 20) -> None:
        self.answers_at_once = False
        self.result: Result = STATUS_RESULT
        self.error: Exception | None = None
        self.started: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self.handled = 0
        """Requests beside hello that were begun."""
        self.hello = HelloResult(
            version=1,
            limits=Limits(max_frame_bytes=max_frame_bytes, max_batch_items=10, max_in_flight=max_in_flight),
            enclave=EnclaveFacts(
                role=Role.SIGNER,
                software="x",
                instance=bytes(16),
                module_id=None,
                pcr0=None,
                config_sha256=None,
                kms_key_arn=None,
                processes=1,
            ),
            ready=True,
            reason=None,
        )

    async def handle(self, request: Request) -> Result:
        """Do as the test says."""
        if isinstance(request, Hello):
            return self.hello
        self.handled += 1
        if not self.answers_at_once:
            release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.started.put_nowait(release)
            try:
                await release
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.error is not None:
            raise self.error
        return self.result


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until something has happened."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0)


class Failures:
    """What a server reports of its own bugs."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, error: BaseException) -> None:
        """Take one."""
        del error
        self.names.append(name)


@contextlib.asynccontextmanager
async def serving(
    address: Address, handler: Handler, limits: ServerLimits | None = None, failures: Failures | None = None
) -> AsyncIterator[Server]:
    """Run a server until the block ends."""
    server = Server(handler, limits or ServerLimits(), failures or Failures())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve(listen(address)))
        try:
            yield server
        finally:
            task.cancel()


@contextlib.asynccontextmanager
async def channel_to(address: Address, **options: Any) -> AsyncIterator[Channel]:
    """Open a channel."""
    async with open_channel(address, software="test", timeout_s=LONG_S, **options) as channel:
        yield channel


class Raw:
    """A peer that can send whatever it likes."""

    def __init__(self, sock: StreamSocket) -> None:
        self._sock = sock
        self._decoder = FrameDecoder(1 << 24)
        self._frames: list[dict[str, Any]] = []

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def ask(self, kind: str, body: dict[str, Any], request_id: int) -> None:
        """Send a request."""
        await self.send(request_frame(kind, body, request_id))

    async def receive(self) -> dict[str, Any] | None:
        """Return the next frame's envelope, or None at the end."""
        async with asyncio.timeout(LONG_S):
            while not self._frames:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self._sock, 1 << 16)
                except ConnectionResetError:
                    return None
                if not data:
                    return None
                self._frames += [decode(body) for body in self._decoder.receive_data(data)]
            return self._frames.pop(0)

    async def rest(self) -> list[dict[str, Any]]:
        """Return all frames until the end."""
        frames: list[dict[str, Any]] = []
        while (frame := await self.receive()) is not None:
            frames.append(frame)
        return frames

    async def greet(self) -> None:
        """Say hello and read the answer."""
        await self.ask("hello", HELLO_BODY, 1)
        answer = await self.receive()
        assert answer is not None
        assert answer["type"] == "result"


def request_frame(kind: str, body: dict[str, Any], request_id: int) -> bytes:
    """Return the frame of a request."""
    return encode_frame(encode({"v": 1, "id": request_id, "type": kind, "body": body}))


@contextlib.asynccontextmanager
async def raw_peer(address: Address) -> AsyncIterator[Raw]:
    """Connect without any protocol."""
    with await connect(address, timeout_s=LONG_S) as sock:
        yield Raw(sock)
