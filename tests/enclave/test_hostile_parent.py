"""A hostile parent: each lie ends in the stated error, none in a signature by the wrong key or a dead enclave."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ecdsa import SECP256k1, VerifyingKey

from enclave.cms import open_envelope
from local.kms import AttestingKms, Credentials, KmsSettings
from local.kms.blob import seal_blob
from local.kms.envelope import EnvelopeRecipient
from local.kms.keystore import KeyStore
from protocol.clock import system_clock
from protocol.errors import SignerError
from protocol.messages import (
    REQUESTS,
    Digest,
    Generate,
    GenerateItem,
    GenerateResult,
    Scheme,
    SealedRecord,
    Sign,
    Status,
    StatusResult,
)
from protocol.statement import KeyStatement, encryption_context
from tests.enclave.stand import OTHER_KEY, TIMEOUT_S, Stand, set_credentials, sign_item, standing, without_hardening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    """Give both enclaves with their credentials."""
    without_hardening(monkeypatch)
    async with standing(tmp_path) as made:
        yield made


def verifies(record: SealedRecord, signature: bytes, message: bytes = b"Hello World") -> bool:
    """Check a signature with the public key of the statement, by an independent library."""
    statement = KeyStatement.from_bytes(record.statement)
    key = VerifyingKey.from_string(statement.public_key, curve=SECP256k1)
    return bool(key.verify_digest(signature, hashlib.sha256(message).digest()))


async def assert_whole(stand: Stand, userid: str, record: SealedRecord) -> None:
    """Check that the enclave still signs, with the right key."""
    assert verifies(record, await stand.sign(userid, record))


async def test_an_honest_parent(stand: Stand) -> None:
    """A key is born and signs; the same job gives the same signature."""
    key = await stand.new_key("u1")
    first = await stand.sign("u1", key.record)
    assert verifies(key.record, first)
    assert await stand.sign("u1", key.record) == first


async def test_rows_swapped_between_users(stand: Stand) -> None:
    """u2's record under u1's name is refused: the statement names its user."""
    mine, theirs = (await stand.new_key("u1")).record, (await stand.new_key("u2")).record
    assert await stand.refusal("u1", theirs) == "record_refused"
    assert await stand.refusal("u2", mine) == "record_refused"
    await assert_whole(stand, "u1", mine)


@pytest.mark.parametrize("part", ["statement", "sealed_key", "encrypted_data_key"])
async def test_a_part_of_another_row(stand: Stand, part: str) -> None:
    """Each part alone comes from the user's own other key; none fits."""
    first, second = (await stand.new_key("u1")).record, (await stand.new_key("u1")).record
    mixed = first.model_copy(update={part: getattr(second, part)})
    code = "record_refused" if part == "sealed_key" else "kms_bad_context"
    assert await stand.refusal("u1", mixed) == code
    await assert_whole(stand, "u1", first)


@pytest.mark.parametrize(
    "parts", [("statement", "sealed_key"), ("statement", "encrypted_data_key"), ("sealed_key", "encrypted_data_key")]
)
async def test_two_parts_of_another_row(stand: Stand, parts: tuple[str, str]) -> None:
    """Two parts together do not fit the third either."""
    first, second = (await stand.new_key("u1")).record, (await stand.new_key("u1")).record
    mixed = first.model_copy(update={part: getattr(second, part) for part in parts})
    assert await stand.refusal("u1", mixed) in {"record_refused", "kms_bad_context"}


@pytest.mark.parametrize("place", [0, 11, 12, 43, 44, 59])
async def test_an_edited_sealed_key(stand: Stand, place: int) -> None:
    """Nonce, ciphertext, tag."""
    record = (await stand.new_key("u1")).record
    edited = bytearray(record.sealed_key)
    edited[place] ^= 1
    assert await stand.refusal("u1", record.model_copy(update={"sealed_key": bytes(edited)})) == "record_refused"


async def test_an_edited_data_key(stand: Stand) -> None:
    """KMS does not open it."""
    record = (await stand.new_key("u1")).record
    edited = bytearray(record.encrypted_data_key)
    edited[-1] ^= 1
    changed = record.model_copy(update={"encrypted_data_key": bytes(edited)})
    assert await stand.refusal("u1", changed) == "kms_bad_context"
    assert await stand.refusal("u1", record.model_copy(update={"encrypted_data_key": b""})) != "internal"


async def test_an_edited_public_key(stand: Stand) -> None:
    """Another public key is another statement, hence another encryption context and another AAD."""
    record = (await stand.new_key("u1")).record
    other = KeyStatement.from_bytes((await stand.new_key("u1")).record.statement).public_key
    statement = KeyStatement.from_bytes(record.statement).model_copy(update={"public_key": other})
    changed = record.model_copy(update={"statement": statement.to_bytes()})
    assert await stand.refusal("u1", changed) == "kms_bad_context"


@pytest.mark.parametrize("change", [{"userid": "u2"}, {"kms_key": "another"}, {"bytes": b"\xff"}, {"bytes": b""}])
async def test_an_edited_statement(stand: Stand, change: dict[str, object]) -> None:
    """Refused before KMS is asked where it can be, and by KMS's comparison of the context where it cannot."""
    record = (await stand.new_key("u1")).record
    statement = KeyStatement.from_bytes(record.statement)
    if "bytes" in change:
        data = change["bytes"]
    elif "kms_key" in change:
        kms_key = statement.kms_key.model_copy(update={"key_id": "another"})
        data = statement.model_copy(update={"kms_key": kms_key}).to_bytes()
    else:
        data = statement.model_copy(update=change).to_bytes()
    calls = len(stand.audit)
    assert await stand.refusal("u1", record.model_copy(update={"statement": data})) == "record_refused"
    assert len(stand.audit) == calls


async def test_the_encryption_context_follows_user_and_statement(stand: Stand) -> None:
    """A statement edited to the other user's name, asked for by that name: the context is not the one of the blob."""
    record = (await stand.new_key("u1")).record
    statement = KeyStatement.from_bytes(record.statement).model_copy(update={"userid": "u2"})
    moved = record.model_copy(update={"statement": statement.to_bytes()})
    assert await stand.refusal("u2", moved) == "kms_bad_context"


async def test_a_data_key_under_another_kms_key(stand: Stand, tmp_path: Path) -> None:
    """The pinned key id goes out with the call, so KMS refuses a blob of any other key."""
    record = (await stand.new_key("u1")).record
    other = KeyStore(tmp_path / "kms", region="us-east-1", account="000000000000").find(OTHER_KEY)
    context = encryption_context("u1", record.statement)
    blob = seal_blob(other.key_id, other.material, other.arn, context, bytes(32))
    assert await stand.refusal("u1", record.model_copy(update={"encrypted_data_key": blob})) == "kms_wrong_key"


async def test_a_proxy_with_a_certificate_of_its_own(stand: Stand, tmp_path: Path) -> None:
    """TLS ends in the enclave, under the measured CA: an evil proxy's own KMS is not believed, and asked nothing."""
    record = (await stand.new_key("u1")).record
    stand_port = stand.relay.port
    evil_audit: list[str] = []
    evil = AttestingKms(
        KmsSettings(state_dir=tmp_path / "evil", nitro_roots=[stand.authority.trust_root]),
        clock=system_clock,
        write_audit=evil_audit.append,
    )
    async with evil:
        stand.relay.port = evil.port
        stand.relay.drop_all()
        assert await stand.refusal("u1", record) == "kms_unavailable"
        generated = await stand.generator.call(Generate(items=(GenerateItem(userid="u9"),)), timeout_s=TIMEOUT_S)
        assert isinstance(generated, GenerateResult)
        assert [item.error and item.error.code for item in generated.results] == ["kms_unavailable"]
        stand.relay.port = stand_port
        stand.relay.drop_all()
    assert evil_audit == []
    await assert_whole(stand, "u1", record)


async def test_a_forged_envelope_opens_and_only_tls_stands_before_it(stand: Stand) -> None:
    """A CMS envelope is encrypted to a public key that every document shows, and nothing in it is authenticated.

    So anybody, the parent first, can write an envelope that the enclave's key opens to bytes of their choice, such as a
    data key that they know. Cryptography on the envelope cannot tell it from KMS's. What can is where it came from: the
    enclave takes envelopes from its own TLS session with KMS alone, and no message of the wire carries one (see the
    tests of a proxy with a certificate of its own, and of the messages' fields, of which none is an envelope).
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert open_envelope(EnvelopeRecipient.from_spki(spki).seal(b"known to the forger" * 2), key)
    fields = {name for model in REQUESTS.values() for name in model.model_fields}
    fields |= set(SealedRecord.model_fields)
    assert not {name for name in fields if "recipient" in name or "envelope" in name or "ciphertext" in name}
    assert stand.signer.is_open


async def test_roles_are_images(stand: Stand) -> None:
    """A generator does not sign, a signer does not generate."""
    record = (await stand.new_key("u1")).record
    with pytest.raises(SignerError, match="not_allowed"):
        await stand.generator.call(Sign(items=(sign_item("u1", record),)), timeout_s=TIMEOUT_S)
    with pytest.raises(SignerError, match="not_allowed"):
        await stand.signer.call(Generate(items=(GenerateItem(userid="u1"),)), timeout_s=TIMEOUT_S)


async def test_kms_says_the_same_of_roles(stand: Stand) -> None:
    """With the other role's credentials the key policy refuses: image and instance role must fit together."""
    record = (await stand.new_key("u1")).record
    await stand.signer.call(set_credentials(stand.access.generator), timeout_s=TIMEOUT_S)
    assert await stand.refusal("u1", record) == "kms_denied"
    await stand.signer.call(set_credentials(stand.access.signer), timeout_s=TIMEOUT_S)
    await assert_whole(stand, "u1", record)


async def test_credentials_of_another_account(stand: Stand) -> None:
    """KMS does not know them; nothing is opened, and the right ones work again."""
    record = (await stand.new_key("u1")).record
    foreign = Credentials("ASIAFOREIGNACCOUNT00", "x" * 40, "token")
    await stand.signer.call(set_credentials(foreign), timeout_s=TIMEOUT_S)
    assert await stand.refusal("u1", record) == "kms_denied"
    await stand.signer.call(set_credentials(stand.access.signer), timeout_s=TIMEOUT_S)
    await assert_whole(stand, "u1", record)


async def test_expired_credentials(stand: Stand) -> None:
    """Not ready, retryable, and said in the status with the seconds."""
    record = (await stand.new_key("u1")).record
    await stand.signer.call(set_credentials(stand.access.signer, expires_in_s=-5), timeout_s=TIMEOUT_S)
    with pytest.raises(SignerError, match="not_ready"):
        await stand.sign("u1", record)
    status = await stand.signer.call(Status(), timeout_s=TIMEOUT_S)
    assert isinstance(status, StatusResult)
    assert (status.ready, status.reason) == (False, "credentials_expired")
    assert status.credentials_expire_in_s is not None
    assert status.credentials_expire_in_s < 0


async def test_one_bad_item_in_a_batch(stand: Stand) -> None:
    """Its neighbours are signed, each with its own key."""
    records = {user: (await stand.new_key(user)).record for user in ("u1", "u2")}
    results = await stand.sign_items(
        sign_item("u1", records["u1"]),
        sign_item("u1", records["u2"]),
        sign_item("u2", records["u2"]),
        sign_item("u2", records["u2"].model_copy(update={"sealed_key": b""})),
        sign_item("u1", records["u1"], bytes(5), scheme=Scheme.SCHNORR, digest=Digest.KECCAK256),
    )
    assert [result.error.code if result.error else "signed" for result in results] == [
        "signed",
        "record_refused",
        "signed",
        "record_refused",
        "bad_request",
    ]
    assert verifies(records["u1"], results[0].signature or b"")
    assert verifies(records["u2"], results[2].signature or b"")
