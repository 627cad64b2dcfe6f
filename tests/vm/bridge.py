"""The parent's end of a virtual machine's vsock: an ordinary Unix socket in front of the back end's handshake.

vhost-device-vsock gives the host one Unix socket. Who connects says `CONNECT PORT` and gets `OK …` once the guest has
accepted (the scheme of Firecracker, docs/vsock.md). Workers know nothing of that, and need not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_BUFFER_BYTES: Final = 1 << 16
_MAX_ANSWER_BYTES: Final = 64
_CONNECT_TIMEOUT_S: Final = 20.0
_BACKLOG: Final = 1024


class HandshakeError(ConnectionError):
    """The guest does not listen at that port, or is not there."""


class _ConnectionEndedError(ConnectionError):
    """One direction of a carried connection has ended, and the other ends with it."""


async def connect_to_guest(vsock: Path, port: int, *, timeout_s: float = _CONNECT_TIMEOUT_S) -> socket.socket:
    """Return a non-blocking socket to a port of the guest.

    Raises:
        OSError: the back end is not there (yet), the guest refused (`HandshakeError`), or the time ran out.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, str(vsock))
            await _shake_hands(sock, port)
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(sock: socket.socket, port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n"):
        byte = await loop.sock_recv(sock, 1)  # what follows the line is already the guest's
        if not byte or len(answer) > _MAX_ANSWER_BYTES:
            raise HandshakeError(f"port {port}: the guest does not answer")
        answer += byte
    if not answer.startswith(b"OK "):
        raise HandshakeError(f"port {port}: {answer!r}")


async def serve_bridge(listen: Path, vsock: Path, port: int) -> None:
    """Carry each connection to `listen` to a port of the guest, until cancelled."""
    loop = asyncio.get_running_loop()
    listen.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(listen))
        listener.listen(_BACKLOG)
        listener.settimeout(0)
        async with asyncio.TaskGroup() as group:
            while True:
                client, _ = await loop.sock_accept(listener)
                client.settimeout(0)
                group.create_task(_carry(client, vsock, port))


async def _carry(client: socket.socket, vsock: Path, port: int) -> None:
    """Carry one connection. Where the guest is not there, the client sees its own end, as with a server that died."""
    with client, contextlib.suppress(OSError), await connect_to_guest(vsock, port) as guest:
        await _carry_both_ways(client, guest)


async def _carry_both_ways(one: socket.socket, other: socket.socket) -> None:
    """Copy until one direction ends. The back end passes no half-close on, so nothing is lost by ending both."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(one, other))
            group.create_task(_copy(other, one))
    except* OSError:
        pass  # an end, or a break: for both sides the same


async def _copy(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _BUFFER_BYTES):
        await loop.sock_sendall(target, data)
    raise _ConnectionEndedError
