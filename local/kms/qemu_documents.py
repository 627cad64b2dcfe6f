"""The attestation documents of QEMU's machine type `nitro-enclave`: of the right form, and signed by nobody.

ANYBODY CAN WRITE ONE. They are taken only where `--dangerous-accept-qemu-documents` was given, which tests in a virtual
machine do; the key policy then still judges their PCRs. Nothing outside this folder reads them.

Source: hw/virtio/virtio-nsm.c of QEMU 10.0: protected header {1: -1}, and 64 zero bytes as the signature, as the
certificate and as the only entry of the CA bundle.
"""

from typing import Final

from protocol.attestation import AtClock, AttestationError, FailedCheck, UnverifiedDocument, parse_document
from protocol.cbor import CborError, decode, encode

_QEMU_HEADER: Final = bytes.fromhex("a10120")
"""{1: -1}: no algorithm at all."""

_NOTHING: Final = bytes(64)
_ES384_HEADER: Final = bytes.fromhex("a1013822")
_ES384_SIGNATURE_BYTES: Final = 96
_MAX_DEPTH: Final = 3
_MS: Final = 1000


def is_qemu_document(document: bytes) -> bool:
    """Whether the envelope is exactly the one that QEMU writes."""
    return _payload_of(document) is not None


def read_qemu_document(document: bytes, at: AtClock) -> UnverifiedDocument:
    """Return what a document says, with its form and its time checked, and nothing else: there is no signature.

    Raises:
        AttestationError: STRUCTURE, KIND, TIME, or ROOT for a document with certificates, which is not QEMU's.
    """
    payload = _payload_of(document)
    if payload is None:
        raise AttestationError(FailedCheck.STRUCTURE, "not an envelope of QEMU's")
    # In the envelope of real hardware, so that the one strict parser reads the payload.
    parsed = parse_document(encode([_ES384_HEADER, {}, payload, bytes(_ES384_SIGNATURE_BYTES)]))
    if parsed.certificate != _NOTHING or parsed.cabundle != (_NOTHING,):
        raise AttestationError(FailedCheck.ROOT, "certificates in a document that nobody signed")
    made_s = parsed.timestamp_ms / _MS
    if not at.now_s - at.max_age_s <= made_s <= at.now_s + at.max_future_s:
        raise AttestationError(FailedCheck.TIME, f"made {at.now_s - made_s:.3f} s ago")
    return parsed


def _payload_of(document: bytes) -> bytes | None:
    try:
        parts = decode(document, max_depth=_MAX_DEPTH)
    except CborError:
        return None
    match parts:
        case [bytes(header), dict() as unprotected, bytes(payload), bytes(signature)]:
            is_whole = header == _QEMU_HEADER and not unprotected and signature == _NOTHING
            return payload if is_whole else None
        case _:
            return None
