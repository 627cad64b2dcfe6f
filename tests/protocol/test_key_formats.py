"""Key statements, key records, birth certificates and live facts: one form each, and only declared errors."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.birth import BirthCertificate, BirthCertificateError, birth_user_data
from protocol.cbor import encode, encode_canonical
from protocol.errors import ErrorCode, SignerError
from protocol.keyrecord import RECORD_FORMAT, KeyRecord, sealed_record_sha256
from protocol.live import LiveFacts, LiveFactsError, live_user_data
from protocol.messages import Role, SealedRecord
from protocol.statement import (
    KeyStatement,
    KmsKey,
    StatementError,
    encryption_context,
    region_of_arn,
)

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KMS_KEY = KmsKey.from_arn(ARN)
STATEMENT = KeyStatement(userid="u001", public_key=bytes(range(64)), kms_key=KMS_KEY)
RECORD = SealedRecord(statement=STATEMENT.to_bytes(), sealed_key=bytes(60), encrypted_data_key=b"blob")
KEY_RECORD = KeyRecord.of(RECORD, kms_key=ARN, created_at="2026-01-01T00:00:00Z", job_id="g-1")
CERTIFICATE = BirthCertificate(statement=RECORD.statement, sealed_sha256=sealed_record_sha256(RECORD), document=b"doc")
FACTS = LiveFacts(role=Role.SIGNER, software="x", config_sha256=bytes(32), kms_key_arn=ARN, instance=bytes(16))
USERIDS = st.from_regex(r"[A-Za-z0-9._:@+=/-]{1,128}", fullmatch=True)


# Statements


@given(USERIDS, st.binary(min_size=64, max_size=64))
def test_a_statement_has_one_form(userid: str, public_key: bytes) -> None:
    """Bytes to value to bytes: the same bytes, canonical, under the limit."""
    data = KeyStatement(userid=userid, public_key=public_key, kms_key=KMS_KEY).to_bytes()
    assert KeyStatement.from_bytes(data).to_bytes() == data
    assert len(data) < 400


def test_the_region_is_not_in_a_statement() -> None:
    """A replica of the KMS key in another Region makes the same statement."""
    other = KmsKey.from_arn(ARN.replace("eu-central-1", "us-east-1"))
    assert other == KMS_KEY
    assert b"eu-central" not in STATEMENT.to_bytes()
    assert region_of_arn(ARN) == "eu-central-1"


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "alias/x",
        ARN.replace("key/", "alias/"),
        ARN + "\n",
        ARN + "/x",
        ARN.replace("kms", "s3"),
        ARN.replace("111122223333", "1111"),
        ARN.replace("arn:aws", "arn:gcp"),
    ],
)
def test_what_is_no_key_arn(arn: str) -> None:
    """An alias can be pointed elsewhere; a key id cannot."""
    with pytest.raises(ValueError, match="not a KMS key ARN"):
        region_of_arn(arn)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "nitro-signer/key/2"},
        {"userid": "a b"},
        {"algorithm": "ed25519"},
        {"public_key": bytes(63)},
        {"public_key": "text"},
        {"kms_key": {"partition": "aws", "account": "1", "key_id": "x"}},
        {"kms_key": ARN},
        {"extra": 1},
    ],
)
def test_a_wrong_statement(change: dict[str, Any]) -> None:
    """Each field has its form, and there is no other field."""
    with pytest.raises(StatementError):
        KeyStatement.from_bytes(encode_canonical(STATEMENT.model_dump() | change))


def test_a_statement_in_another_encoding() -> None:
    """The same fields in another order are not the same statement."""
    reordered = dict(reversed(STATEMENT.model_dump().items()))
    assert encode(reordered) != STATEMENT.to_bytes()
    with pytest.raises(StatementError, match="canonical"):
        KeyStatement.from_bytes(encode(reordered))


def test_a_statement_is_bounded() -> None:
    """Refused on its length alone."""
    with pytest.raises(StatementError, match="1025 bytes"):
        KeyStatement.from_bytes(bytes(1025))


@given(st.binary(max_size=300))
def test_only_declared_errors_come_out_of_bytes(data: bytes) -> None:
    """Whatever the bytes, as a statement, as a certificate, as facts."""
    with contextlib.suppress(StatementError):
        KeyStatement.from_bytes(data)
    with contextlib.suppress(BirthCertificateError):
        BirthCertificate.from_base64(base64.b64encode(data).decode())
    with contextlib.suppress(LiveFactsError):
        LiveFacts.from_bytes(data)


def test_the_encryption_context_binds_user_and_statement() -> None:
    """What CloudTrail shows, and what KMS compares."""
    assert encryption_context("u001", b"bytes") == {
        "userid": "u001",
        "statement_sha256": hashlib.sha256(b"bytes").hexdigest(),
    }


# Records


def test_a_record_survives() -> None:
    """Value to item to value; the names that readers of the table expect."""
    item = KEY_RECORD.to_item()
    assert KeyRecord.from_item(item) == KEY_RECORD
    assert item["publickey"] == bytes(range(64)).hex()
    assert item["format"] == RECORD_FORMAT
    assert base64.b64decode(item["encrypted_datakey"]) == b"blob"


@pytest.mark.parametrize("name", sorted(KEY_RECORD.to_item()))
def test_a_record_without_an_attribute(name: str) -> None:
    """The line names it."""
    item = KEY_RECORD.to_item()
    del item[name]
    with pytest.raises(SignerError, match=name) as refused:
        KeyRecord.from_item(item)
    assert refused.value.code is ErrorCode.RECORD_REFUSED


@pytest.mark.parametrize(
    "change",
    [
        {"format": "nitro-signer/record/2"},
        {"userid": "u002"},
        {"publickey": "00" * 64},
        {"publickey": bytes(range(64)).hex().upper()},
        {"statement": base64.b64encode(STATEMENT.model_copy(update={"userid": "u002"}).to_bytes()).decode()},
        {"statement": "AA=="},
        {"statement": "!"},
        {"statement": "ünicode"},
        {"encrypted_privatekey": "ü"},
        {"encrypted_datakey": "a"},
        {"encrypted_privatekey": base64.b64encode(bytes(129)).decode()},
        {"job_id": "x" * 129},
    ],
)
def test_a_record_whose_parts_do_not_agree(change: dict[str, str]) -> None:
    """Edited by hand or by somebody else: refused before an enclave is asked."""
    with pytest.raises(SignerError) as refused:
        KeyRecord.from_item(KEY_RECORD.to_item() | change)
    assert refused.value.code is ErrorCode.RECORD_REFUSED


@given(st.dictionaries(st.sampled_from(sorted(KEY_RECORD.to_item())), st.text(max_size=20), max_size=4))
def test_only_the_declared_error_comes_out_of_an_item(change: dict[str, str]) -> None:
    """Any text in any attribute."""
    with contextlib.suppress(SignerError):
        KeyRecord.from_item(KEY_RECORD.to_item() | change)


def test_no_record_without_a_statement() -> None:
    """What the enclave sent is checked too."""
    with pytest.raises(StatementError):
        KeyRecord.of(RECORD.model_copy(update={"statement": b""}), kms_key=ARN, created_at="", job_id="")


def test_the_hash_of_a_sealed_record_has_one_meaning() -> None:
    """Bytes moved from one part to the other give another hash."""
    moved = RECORD.model_copy(update={"sealed_key": bytes(59), "encrypted_data_key": b"\0blob"})
    assert sealed_record_sha256(moved) != sealed_record_sha256(RECORD)
    expected = hashlib.sha256(bytes([0x82, 0x58, 60]) + bytes(60) + bytes([0x44]) + b"blob").digest()
    assert sealed_record_sha256(RECORD) == expected


# Certificates


def test_a_certificate_survives() -> None:
    """Value to text to value."""
    assert BirthCertificate.from_base64(CERTIFICATE.to_base64()) == CERTIFICATE


@pytest.mark.parametrize("text", ["", "!", "ü", "AA==", base64.b64encode(encode({"type": "x"})).decode()])
def test_what_is_no_certificate(text: str) -> None:
    """Text, encoding and fields are each checked."""
    with pytest.raises(BirthCertificateError):
        BirthCertificate.from_base64(text)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "nitro-signer/live/1"},
        {"sealed_sha256": bytes(31)},
        {"statement": bytes(1025)},
        {"document": bytes(32 * 1024 + 1)},
        {"extra": b""},
    ],
)
def test_a_wrong_certificate(change: dict[str, Any]) -> None:
    """Each field has its form, and there is no other field."""
    data = encode_canonical(CERTIFICATE.model_dump() | change)
    with pytest.raises(BirthCertificateError):
        BirthCertificate.from_base64(base64.b64encode(data).decode())


def test_what_documents_bind() -> None:
    """Each kind of document has a tag of its own, so one never passes for another."""
    sealed = bytes(32)
    expected = hashlib.sha256(b"nitro-signer/birth/1" + RECORD.statement + sealed).digest()
    assert birth_user_data(RECORD.statement, sealed) == expected
    assert live_user_data(RECORD.statement + sealed) != expected
    assert live_user_data(b"x") == hashlib.sha256(b"nitro-signer/live/1x").digest()


# Live facts


def test_facts_survive() -> None:
    """Value to bytes to value."""
    assert LiveFacts.from_bytes(FACTS.to_bytes()) == FACTS


@pytest.mark.parametrize("change", [{"type": "nitro-signer/birth/1"}, {"role": "root"}, {"extra": 1}])
def test_wrong_facts(change: dict[str, Any]) -> None:
    """Each field has its form, and there is no other field."""
    with pytest.raises(LiveFactsError):
        LiveFacts.from_bytes(encode_canonical(FACTS.model_dump() | change))
    with pytest.raises(LiveFactsError):
        LiveFacts.from_bytes(b"\xff")
