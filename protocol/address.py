"""Transport addresses: `vsock://CID:PORT` and `unix:///path`, both first class."""

import re
from dataclasses import dataclass
from typing import TypeAlias

CID_ANY = 0xFFFFFFFF
"""VMADDR_CID_ANY of linux/vm_sockets.h: listen on every CID of this machine."""

CID_PARENT = 3
"""The parent instance as a Nitro Enclave sees it (AWS Nitro Enclaves user guide, vsock)."""

_MAX_PORT = 0xFFFFFFFE  # 0xFFFFFFFF is VMADDR_PORT_ANY
MAX_UNIX_PATH_BYTES = 107  # sun_path of unix(7) is 108 bytes with its NUL
_VSOCK = re.compile(r"vsock://(any|[0-9]{1,10}):([0-9]{1,10})")


class AddressError(ValueError):
    """The text is not an address."""


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """An AF_VSOCK address. `cid` is `CID_ANY` for listening on all (written `any`)."""

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock://{'any' if self.cid == CID_ANY else self.cid}:{self.port}"

    def sibling(self, index: int) -> "VsockAddress":
        """Return the address of server process `index`: one port per process."""
        return VsockAddress(self.cid, self.port + index)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket at an absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"

    def sibling(self, index: int) -> "UnixAddress":
        """Return the address of server process `index`: the path itself, then with `.1`, `.2` and so on behind it."""
        return self if index == 0 else UnixAddress(f"{self.path}.{index}")


Address: TypeAlias = VsockAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Parse `vsock://CID:PORT` (CID may be `any`) or `unix:///absolute/path`.

    Raises:
        AddressError: says what is wrong and what is allowed.
    """
    if text.startswith("unix://"):
        path = text.removeprefix("unix://")
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise AddressError(f"{text!r}: a unix address needs an absolute path of a socket, as in unix:///run/x.sock")
        if len(path.encode()) > MAX_UNIX_PATH_BYTES:
            raise AddressError(f"{text!r}: the path of a unix socket has at most {MAX_UNIX_PATH_BYTES} bytes")
        return UnixAddress(path)
    match = _VSOCK.fullmatch(text)
    if match is None:
        raise AddressError(f"{text!r}: an address is vsock://CID:PORT or unix:///path")
    cid = CID_ANY if match[1] == "any" else int(match[1])
    port = int(match[2])
    if cid > CID_ANY or not 1 <= port <= _MAX_PORT:
        raise AddressError(f"{text!r}: CID and port are 32-bit numbers, and the port is not 0")
    return VsockAddress(cid, port)
