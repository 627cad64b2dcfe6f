"""Stream sockets for both address families: connect, listen, and never more than 31 KiB a send on vsock."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from protocol.address import Address, UnixAddress, VsockAddress

MAX_VSOCK_SEND_BYTES = 31 * 1024
"""Several guest kernels and vhost back ends corrupt or lose larger writes (cloud-hypervisor issue 7672)."""

LISTEN_BACKLOG = 1024
"""Under a full AF_UNIX backlog connect(2) answers EAGAIN, which asyncio takes for success: make that rare."""

_CONNECT_RETRY_S = 0.01


class StreamSocket(socket.socket):
    """A socket whose single sends stay under the vsock limit; the caller sees a short send, which is ordinary."""

    def send(self, data: Any, flags: int = 0) -> int:
        """Send at most the limit of this family; return the number of bytes taken."""
        if self.family == socket.AF_VSOCK and len(data) > MAX_VSOCK_SEND_BYTES:
            data = memoryview(data)[:MAX_VSOCK_SEND_BYTES]
        return super().send(data, flags)

    def sendmsg(self, buffers: Iterable[Any], *args: Any) -> int:
        """As `send`; asyncio gathers its buffers through this one on newer Pythons."""
        if self.family == socket.AF_VSOCK:
            return self.send(next(iter(buffers)))
        return super().sendmsg(buffers, *args)

    def accept(self) -> tuple[Self, Any]:
        """Accept a connection as a non-blocking socket of this same class."""
        plain, peer = super().accept()
        connection = type(self)(plain.family, plain.type, plain.proto, fileno=plain.detach())
        connection.settimeout(0)
        return connection, peer


def _family(address: Address) -> int:
    return socket.AF_VSOCK if isinstance(address, VsockAddress) else socket.AF_UNIX


def _sockaddr(address: Address) -> Any:
    return (address.cid, address.port) if isinstance(address, VsockAddress) else address.path


def listen(address: Address, *, backlog: int = LISTEN_BACKLOG) -> StreamSocket:
    """Return a non-blocking listening socket. A stale Unix socket file that nobody listens on is replaced.

    Raises:
        OSError: the address is in use, not permitted, or its family is not available.
    """
    if isinstance(address, UnixAddress):
        _remove_stale_socket(address.path)
    sock = StreamSocket(_family(address), socket.SOCK_STREAM)
    try:
        sock.bind(_sockaddr(address))
        if isinstance(address, UnixAddress):
            Path(address.path).chmod(stat.S_IRUSR | stat.S_IWUSR)
        sock.listen(backlog)
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale_socket(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - one call, no object
            raise OSError(errno.EADDRINUSE, f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
            else:
                raise OSError(errno.EADDRINUSE, f"{path} is in use by a running server")


async def connect(address: Address, *, timeout_s: float) -> StreamSocket:
    """Return a connected non-blocking socket.

    Raises:
        OSError: nobody listens there, or the time ran out (`TimeoutError` is one).
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        while True:
            sock = StreamSocket(_family(address), socket.SOCK_STREAM)
            try:
                sock.settimeout(0)
                await loop.sock_connect(sock, _sockaddr(address))
                sock.getpeername()  # asyncio reports success on EAGAIN of a full AF_UNIX backlog; this tells
            except BaseException as error:
                sock.close()
                if isinstance(error, OSError) and error.errno == errno.ENOTCONN:
                    await asyncio.sleep(_CONNECT_RETRY_S)
                    continue
                raise
            return sock


def peer_cid(sock: socket.socket) -> int | None:
    """Return the CID at the other end of a vsock connection, or None on a Unix socket."""
    if sock.family != socket.AF_VSOCK:
        return None
    cid: int = sock.getpeername()[0]
    return cid
