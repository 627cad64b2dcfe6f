"""The CMS envelope: byte for byte in the form of real KMS answers."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from enclave.cms import open_envelope
from local.kms.envelope import EnvelopeRecipient
from tests.local.kms.rig import RECIPIENT_KEY, open_independently, spki

if TYPE_CHECKING:
    from pathlib import Path

RID_AT, KEY_AT, KEY_BYTES = 33, 131, 256
"""Where a real envelope to a 2048-bit key has the key identifier and the encrypted content key."""

IV_BYTES = 16


def mask(envelope: bytes, content_bytes: int) -> bytes:
    """Return the envelope with key identifier, encrypted key, vector and content made zero."""
    tail = 10  # five end-of-contents
    content_at = len(envelope) - tail - content_bytes
    head_bytes = 5 if content_bytes > 127 else 4  # a0 80, 04 and the length, which has a second byte from 128 on
    vector_at = content_at - head_bytes - IV_BYTES
    masked = bytearray(envelope)
    for start, length in (
        (RID_AT, 32),
        (KEY_AT, KEY_BYTES),
        (vector_at, IV_BYTES),
        (content_at, content_bytes),
    ):
        masked[start : start + length] = bytes(length)
    return bytes(masked)


@pytest.mark.parametrize(
    ("name", "plaintext_bytes", "content_bytes"),
    [("no_key_755b9cddf708f37d", 32, 48), ("with_key_7d51cd7d81d90a62", 151, 160)],
)
def test_an_envelope_differs_from_a_real_one_only_in_keys_and_content(
    vectors: Path, name: str, plaintext_bytes: int, content_bytes: int
) -> None:
    """With identifier, encrypted key, vector and content masked, the bytes are the same."""
    real = (vectors / "kms_cms" / f"{name}.ber").read_bytes()
    ours = EnvelopeRecipient.from_spki(spki(RECIPIENT_KEY)).seal(bytes(plaintext_bytes))
    assert mask(real, content_bytes) == mask(ours, content_bytes)


def test_the_key_identifier_is_the_one_of_real_answers(vectors: Path) -> None:
    """It is the SHA-256 of the recipient's SubjectPublicKeyInfo; the independent opener opens the real one too."""
    folder = vectors / "kms_cms"
    real = (folder / "with_key_7d51cd7d81d90a62.ber").read_bytes()
    key = load_der_private_key((folder / "with_key_7d51cd7d81d90a62.key.der").read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert hashlib.sha256(spki(key)).digest() == real[RID_AT : RID_AT + 32]
    ours = EnvelopeRecipient.from_spki(spki(key)).seal(b"x")
    assert real[RID_AT : RID_AT + 32] == ours[RID_AT : RID_AT + 32]
    [entry] = [item for item in json.loads((folder / "manifest.json").read_text()) if item["file"].startswith("with_")]
    assert entry["plaintext_hex"] == open_independently(real, key).hex()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 32, 1024, 4096])
def test_both_openers_open_every_length(length: int) -> None:
    """Padding and segments are right, at block and segment borders too."""
    plaintext = bytes(range(256)) * 16
    envelope = EnvelopeRecipient.from_spki(spki(RECIPIENT_KEY)).seal(plaintext[:length])
    assert plaintext[:length] == open_independently(envelope)
    assert plaintext[:length] == bytes(open_envelope(envelope, RECIPIENT_KEY))


def test_each_envelope_is_another() -> None:
    """Content key and vector are fresh."""
    recipient = EnvelopeRecipient.from_spki(spki(RECIPIENT_KEY))
    assert recipient.seal(b"same") != recipient.seal(b"same")
