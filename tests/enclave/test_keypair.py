"""Key pairs: published vectors for every scheme and format, and the derivation from two sources."""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
from coincurve import PrivateKey, PublicKey, PublicKeyXOnly
from ecdsa import SECP256k1, VerifyingKey
from ecdsa.util import sigdecode_der, sigdecode_string
from hypothesis import given
from hypothesis import strategies as st

from enclave import keypair
from enclave.keypair import KeyPair, derive_private_key
from protocol.forms import digest_of
from protocol.messages import Digest, Scheme, SignatureFormat

if TYPE_CHECKING:
    from pathlib import Path

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEYS = st.integers(min_value=1, max_value=ORDER - 1)
DIGESTS = st.binary(min_size=32, max_size=32)


def pair(number: int) -> KeyPair:
    """Return the key pair of a secret number."""
    return KeyPair(number.to_bytes(32, "big"))


def compact(key: KeyPair, digest: bytes) -> bytes:
    """Sign in the default form."""
    return key.sign(digest, Scheme.ECDSA, SignatureFormat.COMPACT)


def read(path: Path) -> Any:
    """Read a JSON file of vectors."""
    return json.loads(path.read_text())


def test_deterministic_signatures(vectors: Path) -> None:
    """The 2,019 signatures with low s that RFC 6979 allows no choice in."""
    valid = read(vectors / "signatures" / "secp256k1" / "ecdsa_deterministic_noble.json")["valid"]
    for vector in valid:
        signature = compact(KeyPair(bytes.fromhex(vector["d"])), bytes.fromhex(vector["m"]))
        assert signature.hex() == vector["signature"]
    assert len(valid) == 2019


def test_keys_that_do_not_exist(vectors: Path) -> None:
    """0, the order of the curve and beyond are no private keys."""
    invalid = read(vectors / "signatures" / "secp256k1" / "ecdsa_deterministic_noble.json")["invalid"]["sign"]
    checked = 0
    for vector in invalid:
        if vector.get("exception") == "Expected Private" and len(vector["d"]) == 64:
            with pytest.raises(ValueError, match=r"."):
                KeyPair(bytes.fromhex(vector["d"]))
            checked += 1
    assert checked >= 3


def test_rfc_6979(vectors: Path) -> None:
    """r, low s and the recovery id of each vector."""
    for vector in read(vectors / "signatures" / "secp256k1" / "rfc6979_k_python_ecdsa.json"):
        digest = digest_of(vector["msg"].encode(), Digest.SHA256)
        assert digest.hex() == vector["hash"]
        recoverable = KeyPair(bytes.fromhex(vector["d"])).sign(digest, Scheme.ECDSA, SignatureFormat.RECOVERABLE)
        assert recoverable.hex() == f"{vector['r']}{vector['s_low']}{vector['recid']:02x}"


def test_rfc_6979_first_nonce(vectors: Path) -> None:
    """R is the x of the first nonce's point: no other nonce was taken."""
    for vector in read(vectors / "signatures" / "secp256k1" / "rfc6979_noble.json"):
        signature = compact(KeyPair(bytes.fromhex(vector["d"])), digest_of(vector["message"].encode(), Digest.SHA256))
        point = PrivateKey(bytes.fromhex(vector["k0"])).public_key.format()[1:]
        assert signature[:32] == (int.from_bytes(point, "big") % ORDER).to_bytes(32, "big")


def test_bip_340(vectors: Path) -> None:
    """Public keys of all vectors with a secret key; every signature of ours verifies; those of BIP-340 as it says."""
    with (vectors / "signatures" / "bip340" / "test-vectors.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        message, public_key = bytes.fromhex(row["message"]), bytes.fromhex(row["public key"])
        if row["secret key"]:
            key = KeyPair(bytes.fromhex(row["secret key"]))
            assert key.public_key[:32] == public_key
            if len(message) == 32:
                ours = key.sign(message, Scheme.SCHNORR, SignatureFormat.COMPACT)
                assert PublicKeyXOnly(public_key).verify(ours, message)
    assert any(row["secret key"] for row in rows)


def bip_340_without_auxiliary_randomness(secret: int, message: bytes) -> bytes:
    """BIP-340's default signing with a = no bytes masked in, from its text, for comparison (slow)."""

    def tagged(tag: str, data: bytes) -> bytes:
        prefix = hashlib.sha256(tag.encode()).digest()
        return hashlib.sha256(prefix + prefix + data).digest()

    point = PrivateKey(secret.to_bytes(32, "big")).public_key.point()
    d = secret if point[1] % 2 == 0 else ORDER - secret
    x = point[0].to_bytes(32, "big")
    # libsecp256k1 masks the key with the hash of 32 zero bytes when it is given no randomness.
    mask = tagged("BIP0340/aux", bytes(32))
    masked = bytes(a ^ b for a, b in zip(d.to_bytes(32, "big"), mask, strict=True))
    k0 = int.from_bytes(tagged("BIP0340/nonce", masked + x + message), "big") % ORDER
    nonce_point = PrivateKey(k0.to_bytes(32, "big")).public_key.point()
    k = k0 if nonce_point[1] % 2 == 0 else ORDER - k0
    r = nonce_point[0].to_bytes(32, "big")
    e = int.from_bytes(tagged("BIP0340/challenge", r + x + message), "big") % ORDER
    return r + ((k + e * d) % ORDER).to_bytes(32, "big")


@given(KEYS, DIGESTS)
def test_schnorr_without_auxiliary_randomness(secret: int, digest: bytes) -> None:
    """Deterministic, and exactly what BIP-340 with 32 zero bytes of auxiliary randomness gives."""
    signature = pair(secret).sign(digest, Scheme.SCHNORR, SignatureFormat.COMPACT)
    assert signature == bip_340_without_auxiliary_randomness(secret, digest)


def test_schnorr_of_bip_340_with_zero_auxiliary_randomness(vectors: Path) -> None:
    """The vectors whose auxiliary randomness is 32 zero bytes are reproduced to the byte."""
    with (vectors / "signatures" / "bip340" / "test-vectors.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["aux_rand"] and int(row["aux_rand"], 16) == 0]
    rows = [row for row in rows if len(row["message"]) == 64]
    assert rows
    for row in rows:
        key = KeyPair(bytes.fromhex(row["secret key"]))
        signature = key.sign(bytes.fromhex(row["message"]), Scheme.SCHNORR, SignatureFormat.COMPACT)
        assert signature.hex().upper() == row["signature"]


@given(KEYS, DIGESTS)
def test_each_format_is_the_same_signature(secret: int, digest: bytes) -> None:
    """Compact, DER and recoverable agree, verify with an independent library, and s is low."""
    key = pair(secret)
    plain = compact(key, digest)
    der = key.sign(digest, Scheme.ECDSA, SignatureFormat.DER)
    recoverable = key.sign(digest, Scheme.ECDSA, SignatureFormat.RECOVERABLE)
    verifier = VerifyingKey.from_string(key.public_key, curve=SECP256k1)
    assert verifier.verify_digest(plain, digest, sigdecode=sigdecode_string)
    assert verifier.verify_digest(der, digest, sigdecode=sigdecode_der)
    assert sigdecode_der(der, ORDER) == sigdecode_string(plain, ORDER)
    assert (recoverable[:64], recoverable[64] in {0, 1}) == (plain, True)
    recovered = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    assert recovered.format(compressed=False)[1:] == key.public_key
    assert int.from_bytes(plain[32:], "big") <= ORDER // 2
    assert compact(key, digest) == plain


def test_eip_191_signature(vectors: Path) -> None:
    """What other Ethereum software signs; its v is ours plus 27."""
    vector = read(vectors / "signatures" / "ethereum" / "vectors.json")["eip191_personal_sign"]
    key = KeyPair(bytes.fromhex(vector["private_key"]))
    digest = digest_of(vector["message"].encode(), Digest.EIP191)
    signature = key.sign(digest, Scheme.ECDSA, SignatureFormat.RECOVERABLE)
    assert "0x" + signature[:64].hex() + f"{signature[64] + 27:02x}" == vector["signature"]


def test_eip_155_and_712_digests(vectors: Path) -> None:
    """With digest none the caller brings the hash of a transaction or of typed data."""
    ethereum = read(vectors / "signatures" / "ethereum" / "vectors.json")
    transaction, mail = ethereum["eip155"], ethereum["eip712_mail"]
    signature = KeyPair(bytes.fromhex(transaction["private_key"])).sign(
        bytes.fromhex(transaction["signing_hash"][2:]), Scheme.ECDSA, SignatureFormat.RECOVERABLE
    )
    assert int.from_bytes(signature[:32], "big") == int(transaction["r"])
    assert int.from_bytes(signature[32:64], "big") == int(transaction["s"])
    assert signature[64] + 35 + 2 * transaction["chain_id"] == transaction["v"]
    signature = KeyPair(bytes.fromhex(mail["private_key"])).sign(
        bytes.fromhex(mail["digest"][2:]), Scheme.ECDSA, SignatureFormat.RECOVERABLE
    )
    assert ("0x" + signature[:32].hex(), "0x" + signature[32:64].hex(), signature[64] + 27) == (
        mail["r"],
        mail["s"],
        mail["v"],
    )


def test_a_key_shows_its_public_half_only() -> None:
    """No repr, no attribute text has the secret."""
    key = KeyPair(bytes(range(1, 33)))
    assert bytes(range(1, 33)).hex() not in repr(key)
    assert repr(key) == f"KeyPair(public_key={key.public_key.hex()})"


@given(DIGESTS, DIGESTS)
def test_the_derivation_is_hkdf(kms_seed: bytes, nsm_seed: bytes) -> None:
    """HKDF-SHA256 (RFC 5869) over KMS seed and NSM seed, no salt, the fixed label: recomputed by hand."""
    extracted = hmac.digest(bytes(32), kms_seed + nsm_seed, "sha256")
    expanded = hmac.digest(extracted, b"nitro-signer/private-key/1\x01", "sha256")
    assert derive_private_key(bytearray(kms_seed), bytearray(nsm_seed)) == expanded


def test_both_sources_matter() -> None:
    """Another bit in either gives another key, and their order counts."""
    first, second = bytes(32), bytes([1]) + bytes(31)
    keys = {derive_private_key(a, b) for a in (first, second) for b in (first, second)}
    assert len(keys) == 4


def test_a_derivation_outside_the_range_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in 2**127 keys; the caller draws again."""

    class Hkdf:
        def __init__(self, **_: object) -> None: ...

        def derive(self, _: bytes) -> bytes:
            return ORDER.to_bytes(32, "big")

    monkeypatch.setattr(keypair, "HKDF", Hkdf)
    assert derive_private_key(bytes(32), bytes(32)) is None
