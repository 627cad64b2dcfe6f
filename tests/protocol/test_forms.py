"""Digests, public keys and addresses against published vectors, and the combinations that exist."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from coincurve import PrivateKey

from protocol.errors import ErrorCode, SignerError
from protocol.forms import check_form, digest_of
from protocol.keccak import keccak256
from protocol.messages import MAX_MESSAGE_BYTES, Digest, Scheme, SignatureFormat
from protocol.publickey import compressed, ethereum_address, uncompressed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def ethereum(vectors: Path) -> dict[str, Any]:
    """The Ethereum vectors."""
    read: dict[str, Any] = json.loads((vectors / "signatures" / "ethereum" / "vectors.json").read_text())
    return read


def public_key_of(private_key: str) -> bytes:
    """Return x||y."""
    return PrivateKey(bytes.fromhex(private_key)).public_key.format(compressed=False)[1:]


def test_keccak(ethereum: dict[str, Any]) -> None:
    """The padding before FIPS 202."""
    for vector in ethereum["keccak"]:
        assert keccak256(bytes.fromhex(vector["input_hex"])).hex() == vector["keccak256"]


def test_eip_55(ethereum: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum of each published address, made from its digits alone."""
    for vector in ethereum["eip55"]:
        digits = vector["address"][2:].lower()

        def hash_to_address(data: bytes, digits: str = digits) -> bytes:
            return bytes(12) + bytes.fromhex(digits) if len(data) == 64 else keccak256(data)

        monkeypatch.setattr("protocol.publickey.keccak256", hash_to_address)
        expected = vector["address"]
        shown = ethereum_address(bytes(64))
        assert shown.lower() == expected.lower()
        if expected[2:] != digits:  # some are published in lower case only
            assert shown == expected


def test_addresses_of_keys(ethereum: dict[str, Any]) -> None:
    """Private key to address, as other software has it."""
    for name in ("eip712_mail", "eip191_personal_sign"):
        vector = ethereum[name]
        assert ethereum_address(public_key_of(vector["private_key"])).lower() == vector["address"].lower()
    checksummed = ethereum["eip191_personal_sign"]
    assert ethereum_address(public_key_of(checksummed["private_key"])) == checksummed["address"]


def test_eip_191(ethereum: dict[str, Any]) -> None:
    """The digest of `personal_sign`."""
    vector = ethereum["eip191_personal_sign"]
    assert "0x" + digest_of(vector["message"].encode(), Digest.EIP191).hex() == vector["hash"]


def test_eip_191_counts_bytes() -> None:
    """The length in the prefix is that of the bytes, in decimal digits, not of the characters."""
    message = "ключ 🔑".encode()
    assert digest_of(message, Digest.EIP191) == keccak256(b"\x19Ethereum Signed Message:\n13" + message)


def test_the_other_digests() -> None:
    """sha256 and keccak256 of the message; none is the message."""
    assert digest_of(b"abc", Digest.SHA256) == hashlib.sha256(b"abc").digest()
    assert digest_of(b"abc", Digest.KECCAK256) == keccak256(b"abc")
    assert digest_of(bytes(range(32)), Digest.NONE) == bytes(range(32))


@pytest.mark.parametrize(
    ("digest", "scheme", "signature_format"), list(itertools.product(Digest, Scheme, SignatureFormat))
)
def test_the_combinations_that_exist(digest: Digest, scheme: Scheme, signature_format: SignatureFormat) -> None:
    """Schnorr goes with sha256 and none, and compact only; ecdsa with everything."""
    exists = scheme is Scheme.ECDSA or (
        digest in {Digest.SHA256, Digest.NONE} and signature_format is SignatureFormat.COMPACT
    )
    if exists:
        check_form(bytes(32), digest, scheme, signature_format)
        return
    with pytest.raises(SignerError) as refused:
        check_form(bytes(32), digest, scheme, signature_format)
    assert refused.value.code is ErrorCode.BAD_REQUEST
    assert refused.value.detail.startswith(("digest:", "format:"))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_digest_has_32_bytes(size: int) -> None:
    """With digest none the message is the digest."""
    with pytest.raises(SignerError, match="32-byte digest"):
        check_form(bytes(size), Digest.NONE, Scheme.ECDSA, SignatureFormat.COMPACT)


def test_a_message_is_bounded() -> None:
    """64 KiB, and not a byte more."""
    check_form(bytes(MAX_MESSAGE_BYTES), Digest.SHA256, Scheme.ECDSA, SignatureFormat.COMPACT)
    with pytest.raises(SignerError, match="message: at most 65536 bytes, not 65537"):
        check_form(bytes(MAX_MESSAGE_BYTES + 1), Digest.SHA256, Scheme.ECDSA, SignatureFormat.COMPACT)


@pytest.mark.parametrize("number", [1, 2, 3, 7, 2**255])
def test_points_as_sec_1_writes_them(number: int) -> None:
    """Compressed and uncompressed, for keys with even and with odd y."""
    point = PrivateKey(number.to_bytes(32, "big")).public_key
    public_key = point.format(compressed=False)[1:]
    assert compressed(public_key) == point.format(compressed=True)
    assert uncompressed(public_key) == point.format(compressed=False)


@pytest.mark.parametrize("show", [compressed, uncompressed, ethereum_address])
@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_public_key_has_64_bytes(show: Any, size: int) -> None:
    """A point in another form must not be hashed into an address that nobody owns."""
    with pytest.raises(ValueError, match="64 bytes"):
        show(bytes(size))
