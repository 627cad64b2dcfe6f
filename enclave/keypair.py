"""secp256k1 key pairs: made from two sources of randomness, and used to sign. Wraps coincurve."""

from typing import Final

from coincurve import PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.messages import Scheme, SignatureFormat

SEED_BYTES: Final = 32
"""From each of the two sources: 256 bits, the strength of the key."""

_HKDF_LABEL: Final = b"nitro-signer/private-key/1"
_COMPACT_BYTES: Final = 64


def derive_private_key(kms_seed: bytes | bytearray, nsm_seed: bytes | bytearray) -> bytes | None:
    """Return HKDF-SHA256(KMS 32 bytes || NSM 32 bytes) if it is a private key, that is in [1, n-1], else None.

    A key is as good as the better of its two sources (RFC 5869; no salt, since the input is uniform).
    """
    secret = HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=_HKDF_LABEL).derive(
        bytes(kms_seed) + bytes(nsm_seed)
    )
    try:
        PrivateKey(secret)
    except ValueError:
        return None
    return secret


class KeyPair:
    """A private key that signs. Nothing of it is ever shown; `repr` tells the public key only."""

    __slots__ = ("_key", "public_key")

    def __init__(self, private_key: bytes | bytearray) -> None:
        """Take 32 bytes in [1, n-1].

        Raises:
            ValueError: outside that range.
        """
        self._key = PrivateKey(bytes(private_key))
        self.public_key = self._key.public_key.format(compressed=False)[1:]
        """x || y, 64 bytes."""

    def __repr__(self) -> str:
        return f"KeyPair(public_key={self.public_key.hex()})"

    def sign(self, digest: bytes, scheme: Scheme, signature_format: SignatureFormat) -> bytes:
        """Sign a 32-byte digest: RFC 6979 with low s, or BIP-340 without auxiliary randomness."""
        if scheme is Scheme.SCHNORR:
            return self._key.sign_schnorr(digest, aux_randomness=None)  # type: ignore[arg-type]  # as it documents
        if signature_format is SignatureFormat.DER:
            return self._key.sign(digest, hasher=None)
        recoverable = self._key.sign_recoverable(digest, hasher=None)
        return recoverable if signature_format is SignatureFormat.RECOVERABLE else recoverable[:_COMPACT_BYTES]
