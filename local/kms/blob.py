"""Ciphertext blobs of the stand-in: AES-256-GCM under the key's material, bound to key and encryption context.

    4 bytes "nkb1" | 16 bytes key id (UUID) | 12 bytes nonce | ciphertext and tag

AAD: canonical CBOR of {"key": key ARN, "context": encryption context}.
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.cbor import encode_canonical

_MAGIC: Final = b"nkb1"
_KEY_ID_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = len(_MAGIC) + _KEY_ID_BYTES + _NONCE_BYTES


class BlobError(ValueError):
    """Not a blob of this stand-in, damaged, of another key, or another encryption context."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob taken apart, not opened."""

    key_id: str
    nonce: bytes
    sealed: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Take a blob apart.

        Raises:
            BlobError: not in this form.
        """
        if len(data) < _HEAD_BYTES + _TAG_BYTES or not data.startswith(_MAGIC):
            raise BlobError("not a ciphertext blob")
        key_id, rest = data[len(_MAGIC) : len(_MAGIC) + _KEY_ID_BYTES], data[len(_MAGIC) + _KEY_ID_BYTES :]
        return cls(str(uuid.UUID(bytes=key_id)), rest[:_NONCE_BYTES], rest[_NONCE_BYTES:])

    def open(self, material: bytes, key_arn: str, context: Mapping[str, str]) -> bytes:
        """Return the plaintext.

        Raises:
            BlobError: damaged, another key or another encryption context.
        """
        try:
            return AESGCM(material).decrypt(self.nonce, self.sealed, _aad(key_arn, context))
        except InvalidTag as error:
            raise BlobError("the blob does not open") from error


def seal_blob(key_id: str, material: bytes, key_arn: str, context: Mapping[str, str], plaintext: bytes) -> bytes:
    """Return the blob of a plaintext. Random nonces: under 2^32 blobs a key, which no laptop makes."""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(material).encrypt(nonce, plaintext, _aad(key_arn, context))
    return _MAGIC + uuid.UUID(key_id).bytes + nonce + sealed


def _aad(key_arn: str, context: Mapping[str, str]) -> bytes:
    return encode_canonical({"key": key_arn, "context": dict(context)})
