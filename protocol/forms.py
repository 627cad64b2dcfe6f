"""What may be signed and how: digests, and the combinations of digest, scheme and format that exist."""

import hashlib
from collections.abc import Callable, Mapping

from protocol.errors import ErrorCode, SignerError
from protocol.keccak import keccak256
from protocol.messages import DIGEST_BYTES, MAX_MESSAGE_BYTES, Digest, Scheme, SignatureFormat

_SCHNORR_DIGESTS = frozenset({Digest.SHA256, Digest.NONE})


def check_form(message: bytes, digest: Digest, scheme: Scheme, signature_format: SignatureFormat) -> None:
    """Refuse a combination that does not exist. Parent and enclave both call it.

    Raises:
        SignerError: `bad_request`, with the field and what it may be.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise SignerError(ErrorCode.BAD_REQUEST, f"message: at most {MAX_MESSAGE_BYTES} bytes, not {len(message)}")
    if digest is Digest.NONE and len(message) != DIGEST_BYTES:
        raise SignerError(
            ErrorCode.BAD_REQUEST,
            f"message: with digest none the message is the {DIGEST_BYTES}-byte digest, not {len(message)} bytes",
        )
    if scheme is Scheme.SCHNORR:
        if digest not in _SCHNORR_DIGESTS:
            raise SignerError(ErrorCode.BAD_REQUEST, "digest: schnorr goes with sha256 and none")
        if signature_format is not SignatureFormat.COMPACT:
            raise SignerError(ErrorCode.BAD_REQUEST, "format: schnorr has the compact format only")


def digest_of(message: bytes, digest: Digest) -> bytes:
    """Return the 32 bytes that are signed. `eip191` is version 0x45 (`personal_sign`) of EIP-191."""
    return _DIGESTS[digest](message)


def _sha256(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def _eip191(message: bytes) -> bytes:
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(message)).encode() + message)


_DIGESTS: Mapping[Digest, Callable[[bytes], bytes]] = {
    Digest.SHA256: _sha256,
    Digest.KECCAK256: keccak256,
    Digest.EIP191: _eip191,
    Digest.NONE: bytes,
}
