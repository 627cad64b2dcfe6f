"""Stream sockets: connect and listen on each family, a full backlog, stale files, and the vsock limit on sends."""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from pathlib import Path

import pytest

from protocol import transport
from protocol.address import Address, UnixAddress, VsockAddress
from protocol.transport import MAX_VSOCK_SEND_BYTES, StreamSocket, connect, listen, peer_cid


async def test_bytes_go_both_ways(address: Address) -> None:
    """Listen, connect, accept, and a megabyte there and back."""
    loop = asyncio.get_running_loop()
    sent = bytes(range(256)) * 4096
    received = bytearray()
    with listen(address) as listener:
        async with asyncio.TaskGroup() as group:
            connecting = group.create_task(connect(address, timeout_s=5))
            accepted, _ = await loop.sock_accept(listener)
        with accepted, connecting.result() as client:
            assert isinstance(accepted, StreamSocket)
            assert accepted.gettimeout() == 0
            async with asyncio.TaskGroup() as group:
                group.create_task(loop.sock_sendall(client, sent))
                while len(received) < len(sent):
                    received += await loop.sock_recv(accepted, 1 << 16)
    assert received == sent


async def test_nobody_listens(address: Address) -> None:
    """To connect fails with an OSError."""
    with pytest.raises(OSError, match=r".*"):
        await connect(address, timeout_s=2)


def test_an_address_in_use_is_refused(tmp_path: Path) -> None:
    """A running server's socket file is not taken away from it."""
    address = UnixAddress(str(tmp_path / "s"))
    with listen(address), pytest.raises(OSError, match="in use by a running server") as refused:
        listen(address)
    assert refused.value.errno == errno.EADDRINUSE


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    """A server that was killed must be able to start again."""
    address = UnixAddress(str(tmp_path / "s"))
    listen(address).close()
    assert Path(address.path).is_socket()
    listen(address).close()


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    """Only sockets are replaced."""
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        listen(UnixAddress(str(tmp_path / "s")))
    assert (tmp_path / "s").read_text() == "precious"


def test_a_socket_that_cannot_be_bound_is_closed(tmp_path: Path) -> None:
    """No descriptor leaks: a ResourceWarning would fail this test."""
    with pytest.raises(FileNotFoundError):
        listen(UnixAddress(str(tmp_path / "no" / "folder" / "s")))


def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    """The file's mode is the only wall around a Unix socket."""
    with listen(UnixAddress(str(tmp_path / "s"))):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


async def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    """Asyncio takes EAGAIN of a full AF_UNIX backlog for success; `connect` does not."""
    loop = asyncio.get_running_loop()
    address = UnixAddress(str(tmp_path / "s"))
    with listen(address, backlog=0) as listener:
        async with asyncio.TaskGroup() as group:
            connecting = [group.create_task(connect(address, timeout_s=10)) for _ in range(5)]
            accepted = [(await loop.sock_accept(listener))[0] for _ in range(5)]
        for client in connecting:
            assert client.result().getpeername() == address.path
            client.result().close()
        for server in accepted:
            server.close()


async def test_a_backlog_that_stays_full_runs_out_of_time(tmp_path: Path) -> None:
    """The time limit covers the retries."""
    address = UnixAddress(str(tmp_path / "s"))
    with listen(address, backlog=0), await connect(address, timeout_s=5), pytest.raises(TimeoutError):
        await connect(address, timeout_s=0.05)


class SentAmounts(StreamSocket):
    """A Unix socket that says it is a vsock one."""

    @property
    def family(self) -> int:  # type: ignore[override]  # an int is what the base compares with
        """Pretend."""
        return socket.AF_VSOCK


def test_a_send_on_vsock_is_short_rather_than_large() -> None:
    """Larger writes are lost or damaged by some kernels; a short send is ordinary."""
    left, right = socket.socketpair()
    with SentAmounts(left.family, left.type, fileno=left.detach()) as sender, right:
        large = bytes(MAX_VSOCK_SEND_BYTES + 1)
        assert sender.send(large) == MAX_VSOCK_SEND_BYTES
        assert sender.send(b"small") == 5
        assert sender.sendmsg([large, b"next"]) == MAX_VSOCK_SEND_BYTES
        total = 2 * MAX_VSOCK_SEND_BYTES + 5
        assert len(right.recv(1 << 20, socket.MSG_WAITALL | socket.MSG_DONTWAIT)) <= total


def test_a_unix_socket_has_no_such_limit() -> None:
    """There the buffers go out as they are."""
    left, right = socket.socketpair()
    with StreamSocket(left.family, left.type, fileno=left.detach()) as sender, right:
        assert sender.sendmsg([b"a", b"bc"]) == 3
        assert right.recv(10) == b"abc"
        assert peer_cid(sender) is None


def test_the_cid_of_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """On vsock the other end is known by its CID."""

    class Peer(SentAmounts):
        def getpeername(self) -> tuple[int, int]:
            return 3, 1024

    with Peer(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        assert peer_cid(sock) == 3
    made: list[tuple[int, object]] = []

    class Recorder(StreamSocket):
        def __init__(self, family: int, kind: int) -> None:
            super().__init__(socket.AF_UNIX, kind)
            made.append((family, None))

        def bind(self, address: object) -> None:
            made.append((0, address))

    monkeypatch.setattr(transport, "StreamSocket", Recorder)
    with pytest.raises(OSError, match=r".*"):
        listen(VsockAddress(3, 5000))
    assert made == [(socket.AF_VSOCK, None), (0, (3, 5000))]
