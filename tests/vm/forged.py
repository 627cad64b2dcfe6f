"""A document as QEMU's security module writes it, by hand. That this is so easy is why nobody may believe one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.cbor import encode

if TYPE_CHECKING:
    from local.measurements import Measurements

_NOTHING = bytes(64)
_LOCKED_PCRS = 16


def forged_recipient(image: Measurements) -> dict[str, Any]:
    """Return KMS's `Recipient` for an image that nobody has booted."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pcrs = {index: bytes(48) for index in range(_LOCKED_PCRS)} | {0: image.pcr0, 1: image.pcr1, 2: image.pcr2}
    payload = {
        "module_id": "i-1234567890abcdef0-enc9876543210abcde",
        "digest": "SHA384",
        "timestamp": int(time.time()) * 1000,
        "pcrs": pcrs,
        "certificate": _NOTHING,
        "cabundle": [_NOTHING],
        "public_key": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "user_data": None,
        "nonce": None,
    }
    document = encode([encode({1: -1}), {}, encode(payload), _NOTHING])
    return {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
