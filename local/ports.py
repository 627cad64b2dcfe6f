"""A port for a program that is started later."""

import secrets
import socket
from typing import Final

_BELOW_EPHEMERAL: Final = range(20_000, 32_768)
"""The kernel gives none of these to connections (ip_local_port_range), so that one that is free now stays so."""

_HOST: Final = "127.0.0.1"


def find_port() -> int:
    """Return a port of loopback that nobody has now, at random, so that two stacks do not find the same."""
    while True:
        port = secrets.choice(_BELOW_EPHEMERAL)
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        return port
