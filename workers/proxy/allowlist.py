"""The allow-list: which destinations the proxy may connect to. Pure: names and addresses in, a decision out.

The file is that of AWS's vsock-proxy (`allowlist: [{address: HOST, port: PORT}]`), and so is the match: the host name
and the port as written, or else an address that one of the listed hosts of this port resolves to.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from protocol.model import StrictModel

HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
"""A DNS name (at most 253 characters, RFC 1035) or an IP address without brackets."""

TcpPort = Annotated[int, Field(ge=1, le=65535)]


class AllowedService(StrictModel):
    """One entry of the file."""

    address: HostName
    port: TcpPort


def host_key(host: str) -> str:
    """Return the form in which hosts compare: IP addresses in canonical text, names in lower case."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


@dataclass(frozen=True, slots=True)
class AllowList:
    """The decision for every host, port and address."""

    services: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, entries: Iterable[AllowedService]) -> "AllowList":
        """Build it from the entries of a file."""
        return cls(frozenset((host_key(entry.address), entry.port) for entry in entries))

    def names(self, host: str, port: int) -> bool:
        """Whether this host and port are listed as written: then all of its addresses are allowed."""
        return (host_key(host), port) in self.services

    def hosts_of_port(self, port: int) -> tuple[str, ...]:
        """Return the listed hosts of this port, whose addresses are allowed under any name."""
        return tuple(sorted(host for host, listed in self.services if listed == port))
