"""Bulk sign jobs in the handler: many frames, one reply, each item with its own result and its own audit event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from config.fields import FIELDS
from enclave.keypair import KeyPair
from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.jobs import (
    BatchFailure,
    BatchSignature,
    Job,
    SignBatchItem,
    SignBatchJob,
    SignBatchReply,
    SignJob,
    SignReply,
    parse_job,
)
from protocol.messages import Digest, Scheme, SignatureFormat, SignItem
from tests.workers.parent.scripted import (
    ScriptedDynamoDb,
    ScriptedProcess,
    honest_signature,
    key_record,
    private_key_of,
)
from tests.workers.parent.signing import handler_of
from workers.queue.outcome import Answered, Failed, Outcome
from workers.verify import verify_signature

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def db() -> ScriptedDynamoDb:
    """A table with the records of u0 to u299."""
    db = ScriptedDynamoDb()
    for n in range(300):
        db.put("UserToken", key_record(f"u{n}").to_item())
    return db


def bulk(*items: Any, job_id: str = "b-1") -> SignBatchJob:
    """Return a bulk job."""
    job = parse_job(json.dumps({"type": "sign_batch", "job_id": job_id, "items": items}), "m-1")
    assert isinstance(job, SignBatchJob)
    return job


def item(userid: str, **fields: str) -> dict[str, str]:
    """Return an item."""
    return {"userid": userid, "message": f"for {userid}", **fields}


def reply_of(outcome: Outcome) -> SignBatchReply:
    """Return the reply of an answered bulk job."""
    assert isinstance(outcome, Answered)
    assert isinstance(outcome.reply, SignBatchReply)
    return outcome.reply


async def test_a_job_of_many_frames_has_one_reply_in_order(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """A thousand items of 300 users: at most a hundred a frame and a read, and every signature is the right one."""
    job = bulk(*(item(f"u{n % 300}", item_id=f"i-{n}") for n in range(1000)))
    process = ScriptedProcess()
    with capture_logs() as logs:
        async with handler_of(tmp_path, process, db) as handler:
            (outcome,) = await handler.handle([job])
    results = reply_of(outcome).results
    assert [len(batch) for batch in process.batches] == [100] * 10
    assert len(db.calls) == 3
    assert [(result.index, result.item_id) for result in results] == [(n, f"i-{n}") for n in range(1000)]
    for asked, result in zip(job.items, results, strict=True):
        assert isinstance(asked, SignBatchItem)
        assert isinstance(result, BatchSignature)
        public_key = KeyPair(private_key_of(asked.userid)).public_key
        digest = digest_of(asked.message_bytes, Digest.SHA256)
        verify_signature(bytes.fromhex(result.signature), digest, public_key, Scheme.ECDSA, SignatureFormat.COMPACT)
        assert (result.userid, result.publickey) == (asked.userid, public_key.hex())
    audits = [log for log in logs if log["event"] == "signature_made"]
    assert [(audit["job_id"], audit["item"], audit["userid"]) for audit in audits] == [
        ("b-1", n, f"u{n % 300}") for n in range(1000)
    ]
    assert audits[0].keys() - {"log_level"} <= FIELDS.keys()


async def test_each_item_fails_alone(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """Malformed items, unknown users and refused rows have results of their own; the job is answered."""
    db.put("UserToken", {**key_record("u2").to_item(), "format": "other"})
    job = bulk(item("u0"), {"userid": "u1", "item_id": "bad"}, item("u404"), item("u2"), item("u3", scheme="schnorr"))
    async with handler_of(tmp_path, ScriptedProcess(), db) as handler:
        (outcome,) = await handler.handle([job])
    codes = [r.error.code if isinstance(r, BatchFailure) else None for r in reply_of(outcome).results]
    assert codes == [None, ErrorCode.BAD_REQUEST, ErrorCode.UNKNOWN_USER, ErrorCode.RECORD_REFUSED, None]
    bad = reply_of(outcome).results[1]
    assert isinstance(bad, BatchFailure)
    assert (bad.item_id, bad.userid) == ("bad", "u1")
    assert bad.error.message == "items.1: message: field is missing"


async def test_nothing_but_bad_items_is_answered_without_any_call(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """There is nothing to read and nothing to sign."""
    process = ScriptedProcess()
    async with handler_of(tmp_path, process, db) as handler:
        (outcome,) = await handler.handle([bulk({}, {})])
    assert [result.status for result in reply_of(outcome).results] == ["error", "error"]
    assert (process.batches, db.calls) == ([], [])


async def test_what_may_succeed_later_fails_the_try_and_keeps_the_results(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """The job comes again; if it does not, what was signed and what was not is there to be told."""

    def sign(signed: SignItem) -> bytes:
        if signed.userid == "u1":
            raise SignerError(ErrorCode.KMS_THROTTLED)
        return honest_signature(signed)

    async with handler_of(tmp_path, ScriptedProcess(sign=sign), db) as handler:
        (outcome,) = await handler.handle([bulk(item("u0"), item("u1"), item("u404"))])
    assert isinstance(outcome, Failed)
    assert outcome.error.code is ErrorCode.KMS_THROTTLED
    assert outcome.reply is not None
    assert [result.status for result in outcome.reply.results] == ["ok", "error", "error"]


async def test_single_and_bulk_jobs_share_frames(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """Whatever came by one receive goes in one frame, and each job has its own outcome."""
    single = SignJob(type="sign", job_id="s-1", userid="u5", message="alone")
    process = ScriptedProcess()
    jobs: list[Job] = [bulk(item("u0"), item("u1")), single, bulk(item("u2"), job_id="b-2")]
    async with handler_of(tmp_path, process, db) as handler:
        first, second, third = await handler.handle(jobs)
    assert [signed.userid for batch in process.batches for signed in batch] == ["u0", "u1", "u5", "u2"]
    assert len(process.batches) == 1
    assert [result.userid for result in reply_of(first).results] == ["u0", "u1"]
    assert isinstance(second, Answered)
    assert isinstance(second.reply, SignReply)
    assert second.reply.userid == "u5"
    assert [(r.index, r.userid) for r in reply_of(third).results] == [(0, "u2")]


async def test_a_wrong_signature_is_one_failed_item(tmp_path: Path, db: ScriptedDynamoDb) -> None:
    """It never leaves, its audit event says where it stood, and the rest is answered."""

    def sign(signed: SignItem) -> bytes:
        return bytes(64) if signed.userid == "u1" else honest_signature(signed)

    with capture_logs() as logs:
        async with handler_of(tmp_path, ScriptedProcess(sign=sign), db) as handler:
            (outcome,) = await handler.handle([bulk(item("u0"), item("u1"))])
    results = outcome.reply.results if isinstance(outcome, Failed) and outcome.reply else reply_of(outcome).results
    assert [result.status for result in results] == ["ok", "error"]
    (refused,) = [log for log in logs if log["event"] == "signature_refused"]
    assert (refused["job_id"], refused["item"]) == ("b-1", 1)
