"""QEMU's unsigned documents: refused; where they are dangerously accepted, form, time and PCRs still count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from local.kms.errors import KmsError
from local.kms.qemu_documents import is_qemu_document
from local.kms.recipients import MAX_AGE_S, MAX_FUTURE_S, DocumentVerifier
from protocol.attestation import TrustRoot
from protocol.cbor import encode

if TYPE_CHECKING:
    from local.nitro_authority import NitroAuthority

NOW_S = 1_800_000_000.0
PCRS = {index: bytes([index + 1]) * 48 for index in range(16)}
PUBLIC_KEY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)


def qemu_document(*, header: dict[int, int] | None = None, signature: bytes = bytes(64), **changes: Any) -> bytes:
    """Write what hw/virtio/virtio-nsm.c writes, with some fields changed."""
    payload = {
        "module_id": "i-1234567890abcdef0-enc9876543210abcde",
        "digest": "SHA384",
        "timestamp": int(NOW_S) * 1000,
        "pcrs": PCRS,
        "certificate": bytes(64),
        "cabundle": [bytes(64)],
        "public_key": PUBLIC_KEY,
        "user_data": None,
        "nonce": None,
        **changes,
    }
    return encode([encode({1: -1} if header is None else header), {}, encode(payload), signature])


@pytest.fixture
def root(nitro_authority: NitroAuthority) -> TrustRoot:
    """Give a root that real documents would be verified under."""
    return TrustRoot.from_pem(nitro_authority.certificate_pem)


@pytest.fixture
def dangerous(root: TrustRoot) -> DocumentVerifier:
    """Give the verifier of a stand-in that was started with the dangerous option."""
    return DocumentVerifier([root], lambda: NOW_S, dangerous_accept_qemu_documents=True)


def test_by_default_nobody_believes_them(root: TrustRoot) -> None:
    """Whoever can write bytes can write such a document."""
    with pytest.raises(KmsError, match="protected header is not exactly the algorithm ES384"):
        DocumentVerifier([root], lambda: NOW_S).verify(qemu_document())


def test_pcrs_are_those_of_the_document(dangerous: DocumentVerifier) -> None:
    """The policies judge them, as they do those of real documents."""
    caller = dangerous.verify(qemu_document())
    assert caller.pcrs == PCRS
    assert caller.module_id == "i-1234567890abcdef0-enc9876543210abcde"
    assert dangerous.verify(qemu_document()) is caller


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"timestamp": int(NOW_S - MAX_AGE_S - 1) * 1000}, "made 301.000 s ago"),
        ({"timestamp": int(NOW_S + MAX_FUTURE_S + 1) * 1000}, "made -61.000 s ago"),
        ({"certificate": b"a certificate"}, "certificates in a document that nobody signed"),
        ({"cabundle": [bytes(64), bytes(64)]}, "certificates in a document that nobody signed"),
        ({"pcrs": {0: bytes(48)}}, "PCR1 is missing"),
        ({"module_id": "i-0"}, "module_id does not name an enclave"),
        ({"public_key": None}, "public key"),
    ],
)
def test_what_is_wrong_is_refused(dangerous: DocumentVerifier, changes: dict[str, Any], text: str) -> None:
    """Unsigned is the one thing that is forgiven."""
    with pytest.raises(KmsError, match=text):
        dangerous.verify(qemu_document(**changes))


@pytest.mark.parametrize(
    "document",
    [
        qemu_document(signature=bytes(96)),
        qemu_document(signature=b"\1" * 64),
        qemu_document(header={1: -35}),
        qemu_document(header={}),
        encode([encode({1: -1}), {4: b"x"}, b"", bytes(64)]),
        encode(["text", {}, b"", bytes(64)]),
        b"",
    ],
)
def test_only_the_very_envelope_of_qemu_is_forgiven(dangerous: DocumentVerifier, document: bytes) -> None:
    """Everything else takes the ordinary way, and fails there."""
    assert not is_qemu_document(document)
    with pytest.raises(KmsError, match="attestation document is invalid"):
        dangerous.verify(document)
