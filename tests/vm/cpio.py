"""cpio archives in the "newc" form, as the kernel unpacks them: the same files give the same bytes.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Everything belongs to root, times are zero,
inode numbers count up, and files stand in the order of their names.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MAGIC: Final = b"070701"
_TRAILER: Final = "TRAILER!!!"
_ALIGNMENT: Final = 4
_END_ALIGNMENT: Final = 512
"""Archives are concatenated by the loader; the kernel wants each to begin on four bytes, cpio ends blocks of 512."""

_FOLDER_MODE: Final = stat.S_IFDIR | 0o755
_LINK_MODE: Final = stat.S_IFLNK | 0o777
_FILE_MODE: Final = stat.S_IFREG | 0o644
_PROGRAM_MODE: Final = stat.S_IFREG | 0o755


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or symbolic link."""

    name: str
    """Relative, with slashes."""

    mode: int
    content: bytes = b""


def folder(name: str) -> Entry:
    """Return a folder."""
    return Entry(name, _FOLDER_MODE)


def file(name: str, content: bytes, *, is_program: bool = False) -> Entry:
    """Return a file that everybody may read."""
    return Entry(name, _PROGRAM_MODE if is_program else _FILE_MODE, content)


def link(name: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(name, _LINK_MODE, target.encode())


def tree(root: Path, prefix: str = "") -> Iterable[Entry]:
    """Return everything below a folder, in any order. Of modes only "may be run" is kept."""
    for path in root.rglob("*"):
        name = f"{prefix}{path.relative_to(root).as_posix()}"
        if path.is_symlink():
            yield link(name, str(path.readlink()))
        elif path.is_dir():
            yield folder(name)
        elif path.is_file():
            yield file(name, path.read_bytes(), is_program=bool(path.stat().st_mode & stat.S_IXUSR))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the bytes of an archive. Folders that entries need are added; the last entry of a name wins."""
    by_name = {entry.name: entry for entry in entries}
    for name in list(by_name):
        parent = os.path.dirname(name)  # noqa: PTH120 - a name inside the archive, not a path of this machine
        while parent and parent not in by_name:
            by_name[parent] = folder(parent)
            parent = os.path.dirname(parent)  # noqa: PTH120
    out = bytearray()
    for number, name in enumerate(sorted(by_name), start=1):
        _append(out, by_name[name], number)
    _append(out, Entry(_TRAILER, 0), 0)
    out += bytes(-len(out) % _END_ALIGNMENT)
    return bytes(out)


def _append(out: bytearray, entry: Entry, number: int) -> None:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, owner, group, links, time, size, device (2 numbers), device of a node (2), length of name, checksum
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    out += _MAGIC + b"".join(b"%08x" % field for field in fields) + name
    out += bytes(-len(out) % _ALIGNMENT)
    out += entry.content
    out += bytes(-len(out) % _ALIGNMENT)
