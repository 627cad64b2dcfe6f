"""Reads what QEMU's security module has attested, for tests only: nobody signed it."""

from __future__ import annotations

from typing import Any

from protocol.cbor import decode


def fields_of(document: bytes) -> dict[str, Any]:
    """Return the payload of a document."""
    _, _, payload, _ = decode(document, max_depth=3)
    fields: dict[str, Any] = decode(payload, max_depth=4)
    return fields
