"""Sign jobs: what is answered verifies, what does not is refused, and each signature is one audit event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from config.fields import FIELDS
from enclave.keypair import KeyPair
from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.jobs import GenerateJob, Job, SignJob, SignReply, parse_job
from protocol.messages import Digest, Scheme, SignatureFormat, SignItem
from tests.workers.parent.scripted import (
    ScriptedDynamoDb,
    ScriptedProcess,
    client_error,
    honest_signature,
    key_record,
    private_key_of,
)
from tests.workers.parent.signing import handler_of
from workers.queue.outcome import Answered, Failed, Outcome
from workers.sign import _asked_by, _item
from workers.verify import verify_signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def db() -> ScriptedDynamoDb:
    """A table with the records of u0 to u3."""
    db = ScriptedDynamoDb()
    for n in range(4):
        db.put("UserToken", key_record(f"u{n}").to_item())
    return db


def job(userid: str, job_id: str = "s-1", **fields: Any) -> SignJob:
    """Return a sign job."""
    return SignJob.model_validate(
        {"type": "sign", "job_id": job_id, "userid": userid, "message": "Hello World", **fields}
    )


def code_of(outcome: Outcome) -> ErrorCode | None:
    """Return the code of a failure."""
    return outcome.error.code if isinstance(outcome, Failed) else None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"format": "der"},
        {"format": "recoverable", "digest": "eip191"},
        {"digest": "keccak256"},
        {"scheme": "schnorr"},
        {"encoding": "hex", "message": "0x" + "ab" * 32, "digest": "none"},
        {"encoding": "base64", "message": "AAEC"},
    ],
)
async def test_each_form_is_signed_verified_and_audited(
    tmp_path: Path, db: ScriptedDynamoDb, fields: dict[str, str]
) -> None:
    """The reply has a signature in the form that was asked for, over the digest that the audit event names."""
    asked = job("u1", **fields)
    with capture_logs() as logs:
        async with handler_of(tmp_path, ScriptedProcess(), db) as handler:
            (outcome,) = await handler.handle([asked])
    assert isinstance(outcome, Answered)
    reply = outcome.reply
    assert isinstance(reply, SignReply)
    public_key = KeyPair(private_key_of("u1")).public_key
    digest = digest_of(asked.message_bytes, asked.digest)
    verify_signature(bytes.fromhex(reply.signature), digest, public_key, asked.scheme, asked.format)
    assert (reply.job_id, reply.userid, reply.publickey) == ("s-1", "u1", public_key.hex())
    (audit,) = [log for log in logs if log["event"] == "signature_made"]
    assert audit == {
        "event": "signature_made",
        "log_level": "info",
        "job_id": "s-1",
        "userid": "u1",
        "digest": digest.hex(),
        "publickey": public_key.hex(),
        "module_id": "i-0-enc0",
    }
    assert audit.keys() - {"log_level"} <= FIELDS.keys()


async def test_each_job_of_a_batch_has_its_own_outcome(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """Unknown users, refused rows, errors of the enclave and jobs of another type fail alone, in their places."""
    db.put("UserToken", {**key_record("u2").to_item(), "format": "other"})

    def sign(item: SignItem) -> bytes:
        if item.userid == "u3":
            raise SignerError(ErrorCode.KMS_THROTTLED)
        return honest_signature(item)

    jobs: list[Job] = [job("u404"), job("u2"), job("u0"), job("u3"), job("u1"), job("u1", "s-2")]
    jobs.insert(3, GenerateJob(type="generate", job_id="g-1", userid="u0"))
    async with handler_of(tmp_path, ScriptedProcess(sign=sign), db) as handler:
        outcomes = await handler.handle(jobs)
    assert [code_of(outcome) for outcome in outcomes] == [
        ErrorCode.UNKNOWN_USER,
        ErrorCode.RECORD_REFUSED,
        None,
        ErrorCode.WRONG_QUEUE,
        ErrorCode.KMS_THROTTLED,
        None,
        None,
    ]
    replies = [o.reply for o in outcomes if isinstance(o, Answered) and isinstance(o.reply, SignReply)]
    assert [(reply.userid, reply.job_id) for reply in replies] == [("u0", "s-1"), ("u1", "s-1"), ("u1", "s-2")]


async def test_the_same_job_gives_the_same_reply(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """A redelivered job is answered with the same bytes."""
    async with handler_of(tmp_path, ScriptedProcess(), db) as handler:
        assert await handler.handle([job("u1")]) == await handler.handle([job("u1")])


def by_another_key(item: SignItem) -> bytes:
    """A valid signature, by the key of another user."""
    return KeyPair(private_key_of("u2")).sign(digest_of(item.message, item.digest), item.scheme, item.format)


def over_another_message(item: SignItem) -> bytes:
    """A valid signature by the right key, over something that nobody asked for."""
    return KeyPair(private_key_of(item.userid)).sign(digest_of(b"pay me", Digest.SHA256), item.scheme, item.format)


def in_another_form(item: SignItem) -> bytes:
    """A valid signature in another form than was asked for."""
    key = KeyPair(private_key_of(item.userid))
    return key.sign(digest_of(item.message, item.digest), Scheme.ECDSA, SignatureFormat.DER)


@pytest.mark.parametrize("lie", [by_another_key, over_another_message, in_another_form, lambda _: b"", lambda _: b"x"])
async def test_a_wrong_signature_never_leaves(
    tmp_path: Path, db: ScriptedDynamoDb, lie: Callable[[SignItem], bytes]
) -> None:
    """What does not verify with the stored key over our own digest is refused, and logged without its bytes."""
    with capture_logs() as logs:
        async with handler_of(tmp_path, ScriptedProcess(sign=lie), db) as handler:
            outcomes = await handler.handle([job("u1")])
    assert [code_of(outcome) for outcome in outcomes] == [ErrorCode.SIGNATURE_REFUSED]
    (refused,) = [log for log in logs if log["event"] == "signature_refused"]
    assert (refused["job_id"], refused["userid"], refused["log_level"]) == ("s-1", "u1", "error")
    assert not [log for log in logs if log["event"] == "signature_made"]


async def test_a_swapped_row_signs_nothing(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """The row of u2 under the id of u1 is refused before any enclave is asked."""
    db.tables["UserToken"]["u1"] = {**db.tables["UserToken"]["u2"], "userid": {"S": "u1"}}
    process = ScriptedProcess()
    async with handler_of(tmp_path, process, db) as handler:
        outcomes = await handler.handle([job("u1")])
    assert [code_of(outcome) for outcome in outcomes] == [ErrorCode.RECORD_REFUSED]
    assert process.batches == []


async def test_a_store_that_is_down_is_no_unknown_user(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """Whether a user exists is only said by a read that worked."""
    db.faults = [client_error("ThrottlingException")]
    async with handler_of(tmp_path, ScriptedProcess(), db) as handler:
        outcomes = await handler.handle([job("u1"), job("u404")])
    assert [code_of(outcome) for outcome in outcomes] == [ErrorCode.STORE_UNAVAILABLE] * 2


@given(st.text(max_size=200))
def test_any_text_of_a_job_is_what_the_enclave_gets(message: str) -> None:
    """The bytes that are signed are those that the client wrote."""
    try:
        message.encode()
    except UnicodeEncodeError:
        return
    parsed = parse_job(json.dumps({"type": "sign", "userid": "u1", "message": message}), "m-1")
    assert isinstance(parsed, SignJob)
    (asked,) = _asked_by(parsed)
    assert _item(asked, key_record("u1")).message == message.encode()
