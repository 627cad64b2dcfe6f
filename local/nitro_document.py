"""Writes attestation documents as current Nitro hardware does: untagged, the payload map of indefinite length."""

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from local.nitro_authority import DocumentSigner
from protocol.attestation.cose import PROTECTED_HEADER, signed_bytes
from protocol.cbor import encode

_COORDINATE_BYTES = 48
_MAP_START, _BREAK = b"\xbf", b"\xff"
_MS = 1000


def make_document(
    signer: DocumentSigner,
    *,
    module_id: str,
    time_s: float,
    pcrs: Mapping[int, bytes],
    public_key: bytes | None,
    user_data: bytes | None,
    nonce: bytes | None,
) -> bytes:
    """Return a signed document; the fields have the order of real ones."""
    fields = {
        "module_id": module_id,
        "digest": "SHA384",
        "timestamp": int(time_s * _MS),
        "pcrs": dict(pcrs),
        "certificate": signer.certificate,
        "cabundle": list(signer.cabundle),
        "public_key": public_key,
        "user_data": user_data,
        "nonce": nonce,
    }
    return sign_payload(signer.key, encode_indefinite_map(fields))


def encode_indefinite_map(fields: Mapping[str, Any]) -> bytes:
    """Return a CBOR map of indefinite length (RFC 8949 section 3.2.2)."""
    return _MAP_START + b"".join(encode(name) + encode(value) for name, value in fields.items()) + _BREAK


def sign_payload(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """Return a payload in its COSE_Sign1 envelope."""
    r, s = decode_dss_signature(key.sign(signed_bytes(payload), ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
    unprotected: dict[int, object] = {}
    return encode([PROTECTED_HEADER, unprotected, payload, signature])
