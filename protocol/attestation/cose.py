"""COSE_Sign1 (RFC 9052 section 4.2) in the one shape that the Nitro Secure Module makes, with ES384 (RFC 9053).

    [protected: bstr .cbor {1: -35}, unprotected: {}, payload: bstr, signature: bstr of 96]

Untagged as real hardware writes it, or under tag 18 as the specification allows (AWS Nitro Enclaves NSM API,
docs/attestation_process.md). The unprotected map is not signed, so anything in it is refused.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from protocol.attestation.errors import AttestationError, FailedCheck
from protocol.cbor import CborError, decode, encode

MAX_PAYLOAD_BYTES = 16384
"""attestation_process.md section 3.2.2.1: the payload has 1 to 2^14 bytes."""

MAX_DOCUMENT_BYTES = MAX_PAYLOAD_BYTES + 128
"""Payload, signature (96), protected header (4), tag, array head and length heads: 114 bytes of frame at most."""

PROTECTED_HEADER = bytes.fromhex("a1013822")
"""{1: -35}: algorithm ES384. Compared as bytes, so that no second encoding of it passes."""

SIGNATURE_BYTES = 96
_COORDINATE_BYTES = SIGNATURE_BYTES // 2
_TAG_18 = 0xD2
_MAX_DEPTH = 3  # array > unprotected map; one spare, so that a nested map is reported as what it is


@dataclass(frozen=True, slots=True)
class CoseSign1:
    """A well-formed envelope whose signature nobody has checked yet. `payload` are the received bytes."""

    payload: bytes
    signature: bytes

    def verify(self, public_key: ec.EllipticCurvePublicKey) -> None:
        """Check the signature with a P-384 key.

        ECDSA signatures are malleable: two documents that both verify may differ in their signature bytes, so neither
        the document's bytes nor their hash identify it.

        Raises:
            AttestationError: SIGNATURE.
        """
        r = int.from_bytes(self.signature[:_COORDINATE_BYTES], "big")
        s = int.from_bytes(self.signature[_COORDINATE_BYTES:], "big")
        try:
            public_key.verify(encode_dss_signature(r, s), signed_bytes(self.payload), ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise AttestationError(FailedCheck.SIGNATURE, "the signature is not the leaf certificate's") from error


def signed_bytes(payload: bytes) -> bytes:
    """Return the Sig_structure of RFC 9052 section 4.4: what the signature is made over."""
    return encode(["Signature1", PROTECTED_HEADER, b"", payload])


def parse_cose_sign1(data: bytes) -> CoseSign1:
    """Take an envelope apart without trusting it.

    Raises:
        AttestationError: STRUCTURE, names the part that is wrong.
    """
    if not 0 < len(data) <= MAX_DOCUMENT_BYTES:
        raise _wrong(f"{len(data)} bytes; a document has 1 to {MAX_DOCUMENT_BYTES}")
    body = data[1:] if data[0] == _TAG_18 else data
    try:
        parts = decode(body, max_depth=_MAX_DEPTH)
    except CborError as error:
        raise _wrong(f"the envelope is {error}") from error
    match parts:
        case [bytes(protected), unprotected, bytes(payload), bytes(signature)]:
            pass
        case _:
            raise _wrong("not a COSE_Sign1: an array of protected header, unprotected header, payload, signature")
    if protected != PROTECTED_HEADER:
        raise _wrong("the protected header is not exactly the algorithm ES384")
    if unprotected != {}:
        raise _wrong("the unprotected header is not an empty map")
    if not 0 < len(payload) <= MAX_PAYLOAD_BYTES:
        raise _wrong(f"a payload of {len(payload)} bytes; it has 1 to {MAX_PAYLOAD_BYTES}")
    if len(signature) != SIGNATURE_BYTES:
        raise _wrong(f"a signature of {len(signature)} bytes; ES384 has {SIGNATURE_BYTES}")
    return CoseSign1(payload=payload, signature=signature)


def _wrong(text: str) -> AttestationError:
    return AttestationError(FailedCheck.STRUCTURE, text)
