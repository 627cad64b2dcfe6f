"""`python -m tests.vm.worker …`: the workers' program, with one check that takes QEMU's unsigned documents.

The generate worker reads the birth document of a new key, to see that it certifies this very key, and refuses one that
is not in the form of real hardware. Here the form is mended before it reads; what the document says is checked as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import workers.generate
from protocol.attestation import parse_document
from protocol.cbor import decode, encode
from workers.cli import main

if TYPE_CHECKING:
    from protocol.attestation import UnverifiedDocument

_ES384_HEADER = bytes.fromhex("a1013822")


def parse_qemu_document(document: bytes) -> UnverifiedDocument:
    """Read a document of QEMU's in the envelope of real hardware, with a signature of zeros."""
    _, unprotected, payload, _ = decode(document, max_depth=3)
    return parse_document(encode([_ES384_HEADER, unprotected, payload, bytes(96)]))


if __name__ == "__main__":
    vars(workers.generate)["parse_document"] = parse_qemu_document
    main()
