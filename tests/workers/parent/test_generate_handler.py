"""Generate jobs: one key for each user id, whatever is delivered twice, lost or lied about."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from enclave.keypair import KeyPair
from protocol.address import UnixAddress
from protocol.birth import BirthCertificate
from protocol.errors import ErrorCode, SignerError
from protocol.jobs import GenerateJob, GenerateReply, SignJob
from protocol.keyrecord import KeyRecord
from protocol.messages import GeneratedKey, GenerateItem, Role, SealedRecord
from protocol.publickey import ethereum_address
from protocol.statement import KeyStatement, KmsKey
from tests.workers.parent.scripted import (
    KMS_KEY_ARN,
    LONG_S,
    NOW_S,
    STORE,
    BirthOffice,
    ScriptedDynamoDb,
    ScriptedProcess,
    client_error,
    key_record,
    pool_of,
    private_key_of,
    sealed_record,
    serving,
)
from workers.enclaves.calls import GENERATE
from workers.generate import GenerateHandler
from workers.keys.dynamodb import DynamoDbCalls
from workers.keys.keystore import KeyStore
from workers.queue.outcome import Answered, Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

OFFICE = BirthOffice()
OTHER_ARN = "arn:aws:kms:eu-central-1:111122223333:key/6f1c1d52-0000-4000-8000-000000000002"


@contextlib.asynccontextmanager
async def handler_of(
    folder: Path, process: ScriptedProcess, db: ScriptedDynamoDb, *, tries: int = 3
) -> AsyncGenerator[GenerateHandler, None]:
    """Run a handler on one enclave process and tables."""
    address = UnixAddress(str(folder / "e"))
    calls: Any = db
    async with (
        serving(address, process),
        pool_of([address], GENERATE, kms_key_arn=None) as pool,
        asyncio.TaskGroup() as group,
    ):
        async with asyncio.timeout(LONG_S):
            await pool.wait_open()
        store = KeyStore(DynamoDbCalls(calls, call_timeout_s=5, tries=tries), STORE, group)
        yield GenerateHandler(store, pool, lambda: NOW_S)


def generator(**changes: Any) -> ScriptedProcess:
    """Return an honest generator, with some attributes changed."""
    return ScriptedProcess(role=Role.GENERATOR, office=OFFICE, **changes)


def job(userid: str, job_id: str = "g-1") -> GenerateJob:
    """Return a generate job."""
    return GenerateJob(type="generate", job_id=job_id, userid=userid)


def replies(outcomes: Sequence[Outcome]) -> list[GenerateReply]:
    """Return the replies; there must be one for each job."""
    found = [
        outcome.reply
        for outcome in outcomes
        if isinstance(outcome, Answered) and isinstance(outcome.reply, GenerateReply)
    ]
    assert len(found) == len(outcomes)
    return found


def codes(outcomes: Sequence[Outcome]) -> list[ErrorCode | None]:
    """Return the code of each failure."""
    return [outcome.error.code if isinstance(outcome, Failed) else None for outcome in outcomes]


async def test_a_key_is_made_stored_and_certified(tmp_path: Path) -> None:
    """The reply, the record and the certificate speak of the same key."""
    db = ScriptedDynamoDb()
    async with handler_of(tmp_path, generator(), db) as handler:
        (reply,) = replies(await handler.handle([job("u1")]))
    public_key = KeyPair(private_key_of("u1")).public_key
    assert (reply.userid, reply.publickey, reply.created) == ("u1", public_key.hex(), True)
    assert reply.ethereum_address == ethereum_address(public_key)
    record = KeyRecord.from_item({name: value["S"] for name, value in db.tables["UserToken"]["u1"].items()})
    assert (record.public_key, record.job_id, record.kms_key) == (public_key, "g-1", KMS_KEY_ARN)
    assert record.created_at == "2026-09-21T14:13:20Z"
    certificate = BirthCertificate.from_base64(reply.birth_certificate)
    assert certificate == OFFICE.certificate(record.record).model_copy(update={"document": certificate.document})
    assert db.tables["UserTokenBirth"][public_key.hex()]["birth_certificate"]["S"] == reply.birth_certificate


async def test_the_certificate_is_stored_before_the_record(tmp_path: Path) -> None:
    """A crash between the two writes leaves no record without a certificate."""
    db = ScriptedDynamoDb()
    no_fault, crash = "none", client_error("AccessDeniedException")
    db.faults = [no_fault, no_fault, crash]  # read, certificate, record
    async with handler_of(tmp_path, generator(), db) as handler:
        assert codes(await handler.handle([job("u1")])) == [ErrorCode.STORE_UNAVAILABLE]
    assert (len(db.tables["UserTokenBirth"]), len(db.tables["UserToken"])) == (1, 0)
    db.faults = [no_fault, crash]  # read, certificate
    async with handler_of(tmp_path, generator(), db) as handler:
        assert codes(await handler.handle([job("u2")])) == [ErrorCode.STORE_UNAVAILABLE]
    assert not db.tables["UserToken"]


async def test_a_redelivered_job_finds_its_key(tmp_path: Path) -> None:
    """The second delivery makes nothing and gets the same answer; another job for the user is told who was first."""
    db, process = ScriptedDynamoDb(), generator()
    async with handler_of(tmp_path, process, db) as handler:
        (first,) = replies(await handler.handle([job("u1")]))
        (second,) = replies(await handler.handle([job("u1")]))
        (other,) = replies(await handler.handle([job("u1", "g-later")]))
    assert first.created
    assert second == first
    assert other == first.model_copy(update={"job_id": "g-later", "created": False})
    assert len(process.batches) == 1


async def test_twice_in_one_batch_is_one_key(tmp_path: Path) -> None:
    """Jobs of one batch for the same user share one generation, in any order, each with its own job id."""
    process = generator()
    async with handler_of(tmp_path, process, ScriptedDynamoDb()) as handler:
        outcomes = await handler.handle([job("u1", "g-1"), job("u2", "g-2"), job("u1", "g-3"), job("u1", "g-1")])
    found = replies(outcomes)
    assert [(reply.userid, reply.job_id) for reply in found] == [
        ("u1", "g-1"), ("u2", "g-2"), ("u1", "g-3"), ("u1", "g-1"),
    ]  # fmt: skip
    assert [reply.created for reply in found] == [True, True, False, True]
    assert len({reply.publickey for reply in found if reply.userid == "u1"}) == 1
    assert sorted(item.userid for batch in process.batches for item in batch) == ["u1", "u2"]


async def test_whoever_was_faster_wins(tmp_path: Path) -> None:
    """Another worker stored a key for the user meanwhile: ours is dropped, the answer is theirs."""
    db = ScriptedDynamoDb()
    winner = key_record("u1", "g-other", private_key_of("another key"))

    def generate(item: GenerateItem) -> GeneratedKey:
        db.put("UserToken", winner.to_item())
        birth = {
            "publickey": winner.public_key.hex(),
            "birth_certificate": OFFICE.certificate(winner.record).to_base64(),
        }
        db.put("UserTokenBirth", birth)
        return generator().honest_key(item)

    async with handler_of(tmp_path, generator(generate=generate), db) as handler:
        (reply,) = replies(await handler.handle([job("u1")]))
    assert (reply.publickey, reply.created) == (winner.public_key.hex(), False)
    assert BirthCertificate.from_base64(reply.birth_certificate).statement == winner.record.statement
    assert db.tables["UserToken"]["u1"]["job_id"] == {"S": "g-other"}


async def test_a_lost_answer_of_the_store_is_still_our_key(tmp_path: Path) -> None:
    """The record was stored and the answer lost: the second try sees it is ours."""
    db = ScriptedDynamoDb()
    db.faults = ["none", db.LOSE_ANSWER, "none", db.LOSE_ANSWER]
    async with handler_of(tmp_path, generator(), db) as handler:
        (reply,) = replies(await handler.handle([job("u1")]))
    assert reply.created


def birth(sealed: SealedRecord) -> GeneratedKey:
    """Return a key with the document that belongs to it."""
    return GeneratedKey(record=sealed, birth_document=OFFICE.document(sealed))


def off_the_curve(userid: str) -> SealedRecord:
    """A record whose public key is no point."""
    statement = KeyStatement(userid=userid, public_key=bytes(64), kms_key=KmsKey.from_arn(KMS_KEY_ARN))
    return sealed_record(userid).model_copy(update={"statement": statement.to_bytes()})


LIES: list[Callable[[GenerateItem], GeneratedKey]] = [
    lambda _: birth(sealed_record("u2")),  # another user's key
    lambda item: birth(sealed_record(item.userid, kms_key_arn=OTHER_ARN)),
    lambda item: birth(off_the_curve(item.userid)),
    lambda item: GeneratedKey(record=sealed_record(item.userid), birth_document=OFFICE.document(sealed_record("u2"))),
    lambda item: GeneratedKey(record=sealed_record(item.userid), birth_document=b"no document"),
    lambda item: birth(sealed_record(item.userid).model_copy(update={"statement": b"\xa0"})),
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_key_that_does_not_fit_is_never_stored(
    tmp_path: Path, lie: Callable[[GenerateItem], GeneratedKey]
) -> None:
    """Because a record stays for ever, one that no client would accept must not be written."""
    db = ScriptedDynamoDb()
    async with handler_of(tmp_path, generator(generate=lie), db) as handler:
        assert codes(await handler.handle([job("u1")])) == [ErrorCode.INTERNAL]
    assert not db.tables["UserToken"]
    assert not db.tables["UserTokenBirth"]


async def test_an_enclave_without_a_kms_key_makes_no_keys(tmp_path: Path) -> None:
    """What the key was sealed under must be known, to be stored."""
    db = ScriptedDynamoDb()
    async with handler_of(tmp_path, generator(kms_key_arn=None), db) as handler:
        assert codes(await handler.handle([job("u1")])) == [ErrorCode.INTERNAL]
    assert not db.tables["UserToken"]


async def test_each_job_fails_alone(tmp_path: Path) -> None:
    """An error for one user, a refused row and a job of another type leave the others alone."""
    db = ScriptedDynamoDb()
    db.put("UserToken", {**key_record("u2").to_item(), "statement": "oA=="})

    def generate(item: GenerateItem) -> GeneratedKey:
        if item.userid == "u1":
            raise SignerError(ErrorCode.KMS_DENIED)
        return generator().honest_key(item)

    sign = SignJob(type="sign", job_id="s-1", userid="u1", message="x")
    async with handler_of(tmp_path, generator(generate=generate), db) as handler:
        outcomes = await handler.handle([job("u1"), job("u2"), sign, job("u3")])
    assert codes(outcomes) == [ErrorCode.KMS_DENIED, ErrorCode.RECORD_REFUSED, ErrorCode.WRONG_QUEUE, None]


async def test_the_generator_role_needs_no_batch_read(tmp_path: Path) -> None:
    """Its IAM role has GetItem and PutItem only."""
    db = ScriptedDynamoDb()
    async with handler_of(tmp_path, generator(), db) as handler:
        await handler.handle([job("u1"), job("u2")])
        await handler.handle([job("u1")])
    assert {name for name, _ in db.calls} == {"get", "put"}


async def test_a_record_without_its_certificate_is_refused(tmp_path: Path) -> None:
    """An existing key whose certificate is gone is not answered as if all were well."""
    db, process = ScriptedDynamoDb(), generator()
    db.put("UserToken", key_record("u1").to_item())
    async with handler_of(tmp_path, process, db) as handler:
        assert codes(await handler.handle([job("u1")])) == [ErrorCode.RECORD_REFUSED]
    assert process.batches == []
