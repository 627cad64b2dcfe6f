"""Verifies each signature with the stored public key before anybody is told of it (step 9 of a sign job).

The digest is computed here from the job, not taken from the enclave. Wraps coincurve.
"""

from typing import Final

from coincurve import PublicKey, PublicKeyXOnly
from coincurve.ecdsa import cdata_to_der, deserialize_compact

from protocol.errors import ErrorCode, SignerError
from protocol.messages import Scheme, SignatureFormat
from protocol.publickey import uncompressed

_COMPACT_BYTES: Final = 64
_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""n of secp256k1 (SEC 2, section 2.4.1)."""

_RECOVERY_IDS: Final = (0, 1)
"""2 and 3 stand for an r above n, which no honest signer meets (once in 2**127 signatures)."""


def check_public_key(public_key: bytes) -> None:
    """Refuse 64 bytes x||y that are not a point of the curve.

    Raises:
        SignerError: `record_refused`.
    """
    try:
        PublicKey(uncompressed(public_key))
    except ValueError as error:
        raise SignerError(ErrorCode.RECORD_REFUSED, "the public key is not a point of secp256k1") from error


def verify_signature(
    signature: bytes, digest: bytes, public_key: bytes, scheme: Scheme, signature_format: SignatureFormat
) -> None:
    """Return only if the signature is by this key (x||y) over this 32-byte digest, and in the form that was asked for.

    ECDSA signatures have low s in every form. A recoverable one is not verified twice: that the key comes out of it is
    the verification (SEC 1, section 4.1.6).

    Raises:
        SignerError: `signature_refused`.
    """
    try:
        if scheme is Scheme.SCHNORR:
            is_good = PublicKeyXOnly(public_key[:32]).verify(signature, digest)
        elif signature_format is SignatureFormat.RECOVERABLE:
            is_good = _recovers(signature, digest, public_key)
        else:
            der = signature if signature_format is SignatureFormat.DER else cdata_to_der(deserialize_compact(signature))
            # libsecp256k1 refuses high s here, and any DER that is not the one strict encoding
            is_good = PublicKey(uncompressed(public_key)).verify(der, digest, hasher=None)
    except ValueError as error:
        raise SignerError(ErrorCode.SIGNATURE_REFUSED) from error
    if not is_good:
        raise SignerError(ErrorCode.SIGNATURE_REFUSED)


def _recovers(signature: bytes, digest: bytes, public_key: bytes) -> bool:
    if len(signature) != _COMPACT_BYTES + 1 or signature[_COMPACT_BYTES] not in _RECOVERY_IDS:
        return False
    if int.from_bytes(signature[32:_COMPACT_BYTES], "big") > _ORDER // 2:
        return False
    found = PublicKey.from_signature_and_message(signature, digest, hasher=None)
    return found.format(compressed=False) == uncompressed(public_key)
