"""Hears the children say that they are ready, the way systemd does: sd_notify(3)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from local.child import Child

_READY: Final = b"READY=1"


class ChildEndedError(Exception):
    """A child ended before it was ready."""

    def __init__(self, child: Child) -> None:
        super().__init__(f"{child.name} ended with code {child.process.returncode} before it was ready")
        self.child = child


class _Listener(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.ready = asyncio.Event()

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        if _READY in data.splitlines():
            self.ready.set()


@contextlib.asynccontextmanager
async def notify_socket(path: Path) -> AsyncGenerator[asyncio.Event, None]:
    """Listen on a datagram socket to pass as NOTIFY_SOCKET; yield the event that READY=1 sets."""
    path.unlink(missing_ok=True)
    transport, listener = await asyncio.get_running_loop().create_datagram_endpoint(
        _Listener, local_addr=str(path), family=socket.AF_UNIX
    )
    try:
        yield listener.ready
    finally:
        transport.close()
        path.unlink(missing_ok=True)


async def until_ready(child: Child, ready: asyncio.Event, *, timeout_s: float) -> None:
    """Wait for a child to be ready.

    Raises:
        ChildEndedError: it ended instead.
        TimeoutError: it is neither.
    """
    async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
        ended = group.create_task(child.process.wait())
        waiting = group.create_task(ready.wait())
        await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        waiting.cancel()
    if not ready.is_set():
        raise ChildEndedError(child)
