"""Sends aiobotocore's connections to the vsock-proxy of the parent, with nothing but aiohttp's public hooks.

The resolver answers any host with a dummy address and the socket factory returns a socket whose `connect` goes to the
proxy whatever address it is given. TLS then runs end to end: the proxy sees only its bytes.
"""

import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from protocol.address import Address, UnixAddress
from protocol.transport import StreamSocket

_NOWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): should a connection ever really be made to it, it fails


class ProxySocket(StreamSocket):
    """A stream socket that connects to the proxy only."""

    def __init__(self, proxy: Address) -> None:
        super().__init__(socket.AF_UNIX if isinstance(proxy, UnixAddress) else socket.AF_VSOCK, socket.SOCK_STREAM)
        self._proxy = proxy

    def connect(self, address: object) -> None:
        """Connect to the proxy; the address that the resolver made up is ignored."""
        del address
        proxy = self._proxy
        super().connect(proxy.path if isinstance(proxy, UnixAddress) else (proxy.cid, proxy.port))


class ProxyResolver(AbstractResolver):
    """Answers every host with one dummy address: there is no DNS in an enclave."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the dummy address."""
        del family
        return [
            ResolveResult(hostname=host, host=_NOWHERE, port=port, family=socket.AF_INET, proto=0, flags=0),
        ]

    async def close(self) -> None:
        """Hold nothing, close nothing."""


def connector_args(proxy: Address, *, keepalive_s: float) -> dict[str, Any]:
    """Return aiobotocore's `connector_args` for a proxy."""

    def socket_factory(address_info: object) -> socket.socket:
        del address_info
        sock = ProxySocket(proxy)
        sock.settimeout(0)
        return sock

    return {"resolver": ProxyResolver(), "socket_factory": socket_factory, "keepalive_timeout": keepalive_s}
