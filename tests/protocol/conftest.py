"""Addresses of each family that this machine has: one suite runs on every one of them."""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING

import pytest

from protocol.address import Address, UnixAddress, VsockAddress

if TYPE_CHECKING:
    from pathlib import Path

_CID_LOCAL = 1  # VMADDR_CID_LOCAL of linux/vm_sockets.h: loopback, where the module vsock_loopback is there
_PORTS = itertools.count(50_000)


def _why_no_vsock_loopback() -> str | None:
    try:
        with (
            socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener,
            socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client,
        ):
            port = next(_PORTS)
            listener.bind((_CID_LOCAL, port))
            listener.listen()
            client.settimeout(1)
            client.connect((_CID_LOCAL, port))
    except (AttributeError, OSError) as error:
        return f"this machine has no vsock loopback ({error}): these tests did not run over vsock"
    return None


_NO_VSOCK = _why_no_vsock_loopback()


@pytest.fixture(
    params=[
        "unix",
        pytest.param("vsock", marks=pytest.mark.skipif(_NO_VSOCK is not None, reason=_NO_VSOCK or "")),
    ]
)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """An address that nobody listens on yet."""
    if request.param == "unix":
        return UnixAddress(str(tmp_path / "s"))
    return VsockAddress(_CID_LOCAL, next(_PORTS))
