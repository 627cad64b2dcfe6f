"""Keccak-256 as Ethereum uses it (the padding before FIPS 202); the one place that imports sha3."""

from typing import cast

import sha3


def keccak256(data: bytes) -> bytes:
    """Return the 32-byte Keccak-256 of the data."""
    return cast("bytes", sha3.keccak_256(data).digest())
