"""Seals a private key under its data key: AES-256-GCM whose AAD is the canonical key statement.

    sealed key = nonce (12 bytes) || ciphertext (32 bytes) || tag (16 bytes)

Each data key seals exactly one private key, so a random nonce can never repeat under it.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave.cms import wipe
from protocol.errors import ErrorCode, SignerError

PRIVATE_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEALED_KEY_BYTES: Final = NONCE_BYTES + PRIVATE_KEY_BYTES + TAG_BYTES


def seal(private_key: bytes | bytearray, data_key: bytes | bytearray, nonce: bytes, statement: bytes) -> bytes:
    """Return the sealed key."""
    return nonce + AESGCM(data_key).encrypt(nonce, bytes(private_key), statement)


def open_sealed(sealed_key: bytes, data_key: bytes | bytearray, statement: bytes) -> bytearray:
    """Return the private key, in a buffer that the caller wipes.

    Raises:
        SignerError: `record_refused` when anything of sealed key, data key or statement is not as it was sealed.
    """
    if len(sealed_key) != SEALED_KEY_BYTES:
        raise SignerError(ErrorCode.RECORD_REFUSED)
    private_key = bytearray(PRIVATE_KEY_BYTES)
    try:
        AESGCM(data_key).decrypt_into(sealed_key[:NONCE_BYTES], sealed_key[NONCE_BYTES:], statement, private_key)
    except InvalidTag as error:
        wipe(private_key)  # whatever the library has written by then: with a changed tag it would be the key
        raise SignerError(ErrorCode.RECORD_REFUSED) from error
    return private_key
