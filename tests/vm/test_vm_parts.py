"""What of the virtual machine's room needs no machine: archives, the mirror's address, the cache, the bridge."""

from __future__ import annotations

import asyncio
import lzma
import socket
from typing import TYPE_CHECKING

import pytest

from tests.vm import cpio
from tests.vm.apt import AptError, read_mirror
from tests.vm.bridge import HandshakeError, connect_to_guest, serve_bridge
from tests.vm.cache import Cache, Manifest, digest_file
from tests.vm.modules import load_order

if TYPE_CHECKING:
    from pathlib import Path


def test_an_archive_is_the_same_whatever_the_order_of_its_entries() -> None:
    """Sorted by name, folders before what is in them, the last entry of a name."""
    entries = [cpio.file("a/b/c", b"x"), cpio.link("z", "a"), cpio.folder("a"), cpio.file("m", b"1", is_program=True)]
    packed = cpio.archive(entries)
    assert packed == cpio.archive(reversed(entries))
    assert packed == cpio.archive([cpio.file("m", b"0"), *entries])
    places = [packed.index(name + b"\0") for name in (b"a", b"a/b")]
    assert places == sorted(places)
    assert len(packed) % 512 == 0


def test_the_header_of_an_entry_is_that_of_newc() -> None:
    """Field by field: nothing of this machine, and the name with its zero."""
    packed = cpio.archive([cpio.file("name", b"content")])
    fields = [packed[:6], *(packed[6 + 8 * place : 14 + 8 * place] for place in range(13))]
    numbers = [int(field, 16) for field in fields[1:]]
    assert fields[0] == b"070701"
    # inode, mode, owner, group, links, time, size, 4 device numbers, length of name, checksum
    assert numbers == [1, 0o100644, 0, 0, 1, 0, 7, 0, 0, 0, 0, 5, 0]
    assert packed[110:116] == b"name\0\0"
    assert packed[116:124] == b"content\0"
    assert packed[124 + 110 :].startswith(b"TRAILER!!!\0")


def test_a_tree_keeps_links_and_what_may_be_run(tmp_path: Path) -> None:
    """Of the modes nothing else: another umask must not be another PCR0."""
    (tmp_path / "run").write_bytes(b"#!")
    (tmp_path / "run").chmod(0o770)
    (tmp_path / "data").write_bytes(b"d")
    (tmp_path / "data").chmod(0o600)
    (tmp_path / "link").symlink_to("data")
    found = {entry.name: (entry.mode, entry.content) for entry in cpio.tree(tmp_path, "p/")}
    assert found == {
        "p/run": (0o100755, b"#!"),
        "p/data": (0o100644, b"d"),
        "p/link": (0o120777, b"data"),
    }


def test_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    """By the kernel's own note in each; one that the package does not have is built in."""
    available = {}
    for name, needed in (("top", "middle-one,low"), ("middle_one", "low"), ("low", "")):
        path = tmp_path / f"{name}.ko.xz"
        path.write_bytes(lzma.compress(b"ELF\0depends=" + needed.encode() + b"\0name=x\0"))
        available[name] = path
    assert [name for name, _ in load_order(["top", "built_in"], available)] == ["low", "middle_one", "top"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", "deb [arch=amd64] https://mirror.test/debian bookworm main\n"),
        ("sources.list.d/a.list", "# deb http://no.test/debian x main\ndeb https://mirror.test/debian bookworm main\n"),
        (
            "sources.list.d/debian.sources",
            "Types: deb\nURIs: http://x.test/debian-security\nSuites: s\n\nTypes: deb\nURIs: https://mirror.test/debian\n",
        ),
    ],
)
def test_the_mirror_is_the_machines_own(tmp_path: Path, name: str, text: str) -> None:
    """In both forms of sources, and not that of security updates, which has one suite only."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / name).write_text(text)
    assert read_mirror(tmp_path) == "https://mirror.test/debian"


def test_a_machine_without_a_mirror_is_told(tmp_path: Path) -> None:
    """Rather than guessing one."""
    with pytest.raises(AptError, match="no mirror of Debian"):
        read_mirror(tmp_path)


def test_a_cache_knows_when_it_is_damaged(tmp_path: Path) -> None:
    """A changed or missing file is named; without a manifest nothing is installed."""
    cache = Cache(tmp_path)
    assert cache.read_manifest() is None
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    manifest = Manifest({"p": "1"}, {name: digest_file(tmp_path / name) for name in ("one", "two", "three")})
    cache.write_manifest(manifest)
    assert cache.read_manifest() == manifest
    assert cache.damaged_files(manifest) == []
    (tmp_path / "two").write_text("2")
    (tmp_path / "three").unlink()
    assert cache.damaged_files(manifest) == ["two", "three"]


async def _back_end(listener: socket.socket, answer: bytes) -> bytes:
    """Be the vsock back end for one connection: take the first line, answer, then give bytes back until the end."""
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(listener)
    with connection:
        line = b""
        while not line.endswith(b"\n"):
            line += await loop.sock_recv(connection, 1)
        await loop.sock_sendall(connection, answer)
        while data := await loop.sock_recv(connection, 100):
            await loop.sock_sendall(connection, data)
    return line


async def test_the_bridge_hides_the_handshake(tmp_path: Path) -> None:
    """A client of the bridge sees the guest's bytes only, from the first on."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "vm"))
        listener.listen()
        listener.settimeout(0)
        client.settimeout(0)
        async with asyncio.TaskGroup() as group:
            back_end = group.create_task(_back_end(listener, b"OK 1073741824\nearly "))
            bridge = group.create_task(serve_bridge(tmp_path / "bridge", tmp_path / "vm", 5000))
            await asyncio.sleep(0)  # it listens before it first waits
            await loop.sock_connect(client, str(tmp_path / "bridge"))
            await loop.sock_sendall(client, b"hello")
            received = b""
            while len(received) < len(b"early hello"):
                received += await loop.sock_recv(client, 100)
            client.close()
            assert await back_end == b"CONNECT 5000\n"
            bridge.cancel()
    assert received == b"early hello"


@pytest.mark.parametrize("answer", [b"", b"NO\n", b"x" * 1000])
async def test_a_guest_that_does_not_listen_is_an_error(tmp_path: Path, answer: bytes) -> None:
    """The back end just closes then; whatever else it says is no connection either."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "vm"))
        listener.listen()
        listener.settimeout(0)

        async def refuse() -> None:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                await loop.sock_recv(connection, 100)
                await loop.sock_sendall(connection, answer)

        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
            with pytest.raises(HandshakeError):
                await connect_to_guest(tmp_path / "vm", 5000)
