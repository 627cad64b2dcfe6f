"""`python -m tests.vm.inside.echo`: what the guest does for the tests of the way between parent and guest.

Listens at one port and gives every frame back; dials another of the parent, sends frames of every size and says on the
console whether they came back. Both ways with the product's own transport and framing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Final

from protocol.address import CID_ANY, VsockAddress
from protocol.framing import FrameDecoder, encode_frame
from protocol.transport import connect, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GUEST_PORT: Final = 7001
PARENT_PORT: Final = 7002
CLOSED_PORT: Final = 7003
PARENT_CID: Final = 2
SIZES: Final = (1, 2, 100, 4096, 28_000, 31 * 1024 - 4, 31 * 1024, 32_768, 65_536, 200_000, (1 << 20) - 4, 1 << 20)
MAX_FRAME_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 120.0


def body_of(size: int) -> bytes:
    """Return a body in which every cut and every swap would show."""
    return b"".join(b"%08x" % place for place in range(0, size, 8))[:size]


async def frames_from(sock: socket.socket) -> AsyncIterator[bytes]:
    """Yield the bodies of frames until the end."""
    decoder = FrameDecoder(MAX_FRAME_BYTES)
    while data := await asyncio.get_running_loop().sock_recv(sock, _CHUNK_BYTES):
        for body in decoder.receive_data(data):
            yield body


async def echo(sock: socket.socket) -> None:
    """Give every frame back until the end."""
    with sock, contextlib.suppress(ConnectionError):
        async for body in frames_from(sock):
            await asyncio.get_running_loop().sock_sendall(sock, encode_frame(body))


async def send_and_compare(sock: socket.socket) -> None:
    """Send a frame of every size and check that it comes back.

    Raises:
        ValueError: another one came back, or none.
    """
    received = frames_from(sock)
    for size in SIZES:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.get_running_loop().sock_sendall(sock, encode_frame(body_of(size))))
            found = await anext(received, None)
        if found != body_of(size):
            raise ValueError(f"a frame of {size} bytes came back as {None if found is None else len(found)} bytes")


async def _serve() -> None:
    with listen(VsockAddress(CID_ANY, GUEST_PORT)) as listener:
        async with asyncio.TaskGroup() as group:
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                group.create_task(echo(connection))


async def _dial() -> str:
    """Return what went wrong on the way to the parent, or OK."""
    try:
        with await connect(VsockAddress(PARENT_CID, PARENT_PORT), timeout_s=_TIMEOUT_S) as sock:
            await send_and_compare(sock)
            # Half a close: the parent may not see it, and must not lose what comes before or after.
            await asyncio.get_running_loop().sock_sendall(sock, encode_frame(b"last"))
            sock.shutdown(socket.SHUT_WR)
            last = await anext(frames_from(sock), None)
        if last != b"last":
            return f"after a half-close {last!r} came back"
    except (OSError, ValueError) as error:
        return repr(error)
    try:
        (await connect(VsockAddress(PARENT_CID, CLOSED_PORT), timeout_s=_TIMEOUT_S)).close()
    except OSError:
        return "OK"
    return "a port without a listener took a connection"


async def _main() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_serve())
        sys.stdout.write(f"\nDIALLED {await _dial()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
