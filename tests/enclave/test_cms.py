"""The CMS opener: every real envelope, and nothing else; only EnvelopeError comes out of any bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from asn1crypto import cms as asn1_cms
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.cms import MAX_ENVELOPE_BYTES, EnvelopeError, open_envelope, wipe
from local.kms.envelope import EnvelopeRecipient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RECIPIENT = EnvelopeRecipient.from_spki(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
PLAINTEXT = bytes(range(32))
ENVELOPE = RECIPIENT.seal(PLAINTEXT)


def load_key(path: Path) -> rsa.RSAPrivateKey:
    """Read a PKCS #8 file."""
    key = load_der_private_key(path.read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def test_real_envelopes_with_their_key(vectors: Path) -> None:
    """Those with a key open to the stated plaintext: primitive, segmented, and definite ones."""
    folder = vectors / "kms_cms"
    opened = 0
    for entry in json.loads((folder / "manifest.json").read_text()):
        if entry["key"] is None:
            continue
        expected = (
            bytes.fromhex(entry["plaintext_hex"])
            if entry.get("plaintext_hex")
            else (folder / entry["plaintext_file"]).read_bytes()
        )
        plaintext = open_envelope((folder / entry["file"]).read_bytes(), load_key(folder / entry["key"]))
        assert isinstance(plaintext, bytearray)
        assert plaintext == expected
        opened += 1
    assert opened == 4


def test_real_envelopes_without_their_key(vectors: Path) -> None:
    """They parse, and fail only at the key, which is not ours."""
    folder = vectors / "kms_cms"
    for entry in json.loads((folder / "manifest.json").read_text()):
        with pytest.raises(EnvelopeError, match="does not open with this key"):
            open_envelope((folder / entry["file"]).read_bytes(), KEY)


@given(st.binary(max_size=3000))
@settings(max_examples=25)
def test_any_plaintext_opens(plaintext: bytes) -> None:
    """Of any length, padding and segments included."""
    assert open_envelope(RECIPIENT.seal(plaintext), KEY) == plaintext


def test_another_key_does_not_open() -> None:
    """The envelope is for one recipient."""
    with pytest.raises(EnvelopeError, match="does not open with this key"):
        open_envelope(ENVELOPE, OTHER_KEY)


@given(st.integers(min_value=0, max_value=len(ENVELOPE) * 8 - 1))
@settings(max_examples=200)
def test_a_changed_bit_never_raises_anything_else(bit: int) -> None:
    """CBC is not authenticated, so a changed bit may open to other bytes; it never raises another error."""
    changed = bytearray(ENVELOPE)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        open_envelope(bytes(changed), KEY)
    except EnvelopeError:
        return


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: ENVELOPE[:100] + tail))
def test_only_the_declared_error_comes_out(data: bytes) -> None:
    """Any bytes."""
    with pytest.raises(EnvelopeError):
        open_envelope(data, KEY)


@pytest.mark.parametrize("data", [b"", ENVELOPE[:-1], ENVELOPE + b"\0", bytes(MAX_ENVELOPE_BYTES + 1), b"\x30\x80" * 9])
def test_not_one_whole_envelope(data: bytes) -> None:
    """Truncated, followed by something, too long, or nothing."""
    with pytest.raises(EnvelopeError):
        open_envelope(data, KEY)


def rebuilt(change: Callable[[Any], None]) -> bytes:
    """Return the envelope in DER with one field changed."""
    parsed = asn1_cms.ContentInfo.load(ENVELOPE, strict=True)
    enveloped = parsed["content"]
    content = enveloped["encrypted_content_info"]
    recipient = enveloped["recipient_infos"][0].chosen
    value: dict[str, Any] = {
        "content_type": "enveloped_data",
        "version": "v2",
        "recipient_infos": [
            {
                "version": "v2",
                "rid": asn1_cms.RecipientIdentifier("subject_key_identifier", recipient["rid"].native),
                "key_encryption_algorithm": {
                    "algorithm": "rsaes_oaep",
                    "parameters": {
                        "hash_algorithm": {"algorithm": "sha256"},
                        "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": {"algorithm": "sha256"}},
                        "p_source_algorithm": {"algorithm": "p_specified", "parameters": b""},
                    },
                },
                "encrypted_key": recipient["encrypted_key"].native,
            }
        ],
        "encrypted_content_info": {
            "content_type": "data",
            "content_encryption_algorithm": {
                "algorithm": "aes256_cbc",
                "parameters": content["content_encryption_algorithm"]["parameters"].native,
            },
            "encrypted_content": content["encrypted_content"].native,
        },
    }
    change(value)
    recipients = [
        asn1_cms.RecipientInfo("ktri", item) if isinstance(item, dict) else item for item in value["recipient_infos"]
    ]
    fields = {name: field for name, field in value.items() if name not in {"content_type", "recipient_infos"}}
    data: bytes = asn1_cms.ContentInfo(
        {
            "content_type": value["content_type"],
            "content": asn1_cms.EnvelopedData({**fields, "recipient_infos": recipients}),
        }
    ).dump()
    return data


def test_a_rebuilt_envelope_opens() -> None:
    """The tests below change one thing in something that works."""
    assert open_envelope(rebuilt(lambda _: None), KEY) == PLAINTEXT


def oaep(value: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the key encryption."""
    parameters: dict[str, Any] = value["recipient_infos"][0]["key_encryption_algorithm"]["parameters"]
    return parameters


def content(value: dict[str, Any]) -> dict[str, Any]:
    """Return the encrypted content."""
    found: dict[str, Any] = value["encrypted_content_info"]
    return found


def pkcs1(value: dict[str, Any]) -> None:
    """Switch to the padding that leaks."""
    value["recipient_infos"][0]["key_encryption_algorithm"] = {"algorithm": "rsaes_pkcs1v15"}


def flip_key(value: dict[str, Any]) -> None:
    """Damage the encrypted content key."""
    key = bytearray(value["recipient_infos"][0]["encrypted_key"])
    key[-1] ^= 1
    value["recipient_infos"][0]["encrypted_key"] = bytes(key)


def content_key_of(size: int) -> Callable[[dict[str, Any]], None]:
    """Encrypt a content key of another size."""

    def change(value: dict[str, Any]) -> None:
        from local.kms.envelope import _OAEP

        value["recipient_infos"][0]["encrypted_key"] = KEY.public_key().encrypt(bytes(size), _OAEP)

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "version 0": lambda value: value.update(version="v0"),
    "version 3": lambda value: value.update(version="v3"),
    "no recipient": lambda value: value.update(recipient_infos=[]),
    "two recipients": lambda value: value.update(recipient_infos=value["recipient_infos"] * 2),
    "PKCS #1 v1.5": pkcs1,
    "OAEP with SHA-1": lambda value: oaep(value).pop("hash_algorithm"),
    "OAEP with SHA-512": lambda value: oaep(value).update(hash_algorithm={"algorithm": "sha512"}),
    "MGF1 with SHA-1": lambda value: oaep(value).pop("mask_gen_algorithm"),
    "a label": lambda value: oaep(value).update(
        p_source_algorithm={"algorithm": "p_specified", "parameters": b"label"}
    ),
    "a damaged content key": flip_key,
    "a content key of 16 bytes": content_key_of(16),
    "content of another type": lambda value: content(value).update(content_type="signed_data"),
    "AES-128": lambda value: content(value)["content_encryption_algorithm"].update(algorithm="aes128_cbc"),
    "an IV of 8 bytes": lambda value: content(value)["content_encryption_algorithm"].update(parameters=bytes(8)),
    "no content": lambda value: content(value).pop("encrypted_content"),
    "empty content": lambda value: content(value).update(encrypted_content=b""),
    "half a block": lambda value: content(value).update(encrypted_content=bytes(24)),
    "wrong padding": lambda value: content(value).update(encrypted_content=bytes(48)),
    "originator info": lambda value: value.update(originator_info={"certs": []}),
    "attributes": lambda value: value.update(
        unprotected_attrs=[{"type": "content_type", "values": [asn1_cms.ContentType("data")]}]
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_else_opens(name: str) -> None:
    """Another algorithm, another structure, or damage: each is refused."""
    with pytest.raises(EnvelopeError):
        open_envelope(rebuilt(CHANGES[name]), KEY)


def test_another_content_type() -> None:
    """Signed data is not an envelope."""
    data = asn1_cms.ContentInfo({"content_type": "data", "content": b"x"}).dump()
    with pytest.raises(EnvelopeError, match="not enveloped data"):
        open_envelope(data, KEY)


def test_a_password_recipient() -> None:
    """Only a key-transport recipient is taken."""

    def change(value: dict[str, Any]) -> None:
        value["recipient_infos"] = [
            asn1_cms.RecipientInfo(
                "pwri",
                {"version": "v0", "key_encryption_algorithm": {"algorithm": "aes256_wrap"}, "encrypted_key": bytes(32)},
            )
        ]

    with pytest.raises(EnvelopeError):
        open_envelope(rebuilt(change), KEY)


def test_wiping() -> None:
    """The same buffer, all zeros."""
    buffer = bytearray(b"secret")
    wipe(buffer)
    assert buffer == bytes(6)
