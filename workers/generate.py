"""The generate worker: one key for each user id, however often it is asked for.

The order is what makes it safe to end anywhere: look the record up, have a key made, store its birth certificate, store
its record unless somebody was faster, answer with what stands in the store. A crash leaves at most a certificate of a
key that nobody has; the redelivered job starts over.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import structlog

from protocol.attestation import AttestationError, parse_document
from protocol.birth import BirthCertificate, birth_user_data
from protocol.clock import Clock
from protocol.errors import ErrorCode, SignerError
from protocol.jobs import GenerateJob, GenerateReply, Job
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from protocol.messages import GeneratedKey, GenerateItem
from protocol.publickey import compressed, ethereum_address
from protocol.statement import KeyStatement, KmsKey
from workers.enclaves.calls import FromEnclave
from workers.keys.keystore import KeyStore
from workers.queue.outcome import Answered, Failed, Outcome
from workers.verify import check_public_key

log = structlog.get_logger()


class Generators(Protocol):
    """The generator enclaves, see `workers.enclaves.pool`."""

    async def call(self, items: Sequence[GenerateItem]) -> list[FromEnclave[GeneratedKey] | SignerError]:
        """Return a new key or an error for each item."""
        ...


class _NewKeyRefusedError(Exception):
    """What the enclave sent is not a key for this user: a fault of the enclave, never stored."""


class GenerateHandler:
    """Does generate jobs (`workers.queue.outcome.JobHandler`)."""

    job_type: Literal["generate"] = "generate"

    def __init__(self, store: KeyStore, generators: Generators, clock: Clock) -> None:
        self._store = store
        self._generators = generators
        self._clock = clock

    async def handle(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Find or make the keys; return an outcome for each job, in their order.

        Jobs for the same user id share one key: the first of them may have made it, the others find it.
        """
        by_user: dict[str, list[tuple[int, GenerateJob]]] = {}
        outcomes: list[Outcome] = [Failed(SignerError(ErrorCode.WRONG_QUEUE))] * len(jobs)
        for place, job in enumerate(jobs):
            if isinstance(job, GenerateJob):
                by_user.setdefault(job.userid, []).append((place, job))

        async def one(same_user: Sequence[tuple[int, GenerateJob]]) -> None:
            first = await self._reply(same_user[0][1])
            for place, job in same_user:
                outcomes[place] = _outcome_for(job, first)

        async with asyncio.TaskGroup() as group:
            for same_user in by_user.values():
                group.create_task(one(same_user))
        return outcomes

    async def _reply(self, job: GenerateJob) -> GenerateReply | SignerError:
        try:
            record = await self._find(job.userid)
            if record is not None:
                return _reply(job, record, await self._store.get_birth(record))
            return await self._make(job)
        except SignerError as error:
            return error

    async def _find(self, userid: str) -> KeyRecord | None:
        try:
            return await self._store.get_one(userid)
        except SignerError as error:
            if error.code is ErrorCode.UNKNOWN_USER:
                return None
            raise

    async def _make(self, job: GenerateJob) -> GenerateReply:
        (answer,) = await self._generators.call([GenerateItem(userid=job.userid)])
        if isinstance(answer, SignerError):
            raise answer
        try:
            record, certificate = self._check(job, answer)
        except (_NewKeyRefusedError, AttestationError, ValueError, SignerError) as error:
            log.exception("new_key_refused", job_id=job.job_id, userid=job.userid)
            raise SignerError(ErrorCode.INTERNAL, "the enclave's answer is not a key for this user id") from error
        await self._store.put_birth(record.public_key, certificate)
        stored = await self._store.put_new(record)
        is_ours = stored == record
        log.info(
            "key_made" if is_ours else "key_found",
            job_id=job.job_id,
            userid=job.userid,
            publickey=stored.public_key.hex(),
            module_id=answer.enclave.module_id,
        )
        if not is_ours:
            certificate = await self._store.get_birth(stored)
        return _reply(job, stored, certificate)

    def _check(self, job: GenerateJob, answer: FromEnclave[GeneratedKey]) -> tuple[KeyRecord, BirthCertificate]:
        """Check that the answer fits the question. A record is never written twice, so a wrong one would stay.

        Whether real hardware signed the document is for the client to verify; that it certifies this very key is
        checked here, because the client would never accept the key otherwise.
        """
        sealed, document, kms_key_arn = answer.value.record, answer.value.birth_document, answer.enclave.kms_key_arn
        if kms_key_arn is None:
            raise _NewKeyRefusedError("an enclave without a KMS key")
        statement = KeyStatement.from_bytes(sealed.statement)
        if statement.userid != job.userid or statement.kms_key != KmsKey.from_arn(kms_key_arn):
            raise _NewKeyRefusedError("another user id or KMS key")
        check_public_key(statement.public_key)
        sealed_sha256 = sealed_record_sha256(sealed)
        if parse_document(document).user_data != birth_user_data(sealed.statement, sealed_sha256):
            raise _NewKeyRefusedError("the document certifies something else")
        created_at = datetime.fromtimestamp(int(self._clock()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = KeyRecord.of(sealed, kms_key=kms_key_arn, created_at=created_at, job_id=job.job_id)
        return record, BirthCertificate(statement=sealed.statement, sealed_sha256=sealed_sha256, document=document)


def _reply(job: GenerateJob, record: KeyRecord, certificate: BirthCertificate) -> GenerateReply:
    return GenerateReply(
        job_id=job.job_id,
        userid=job.userid,
        publickey=record.public_key.hex(),
        publickey_compressed=compressed(record.public_key).hex(),
        ethereum_address=ethereum_address(record.public_key),
        created=record.job_id == job.job_id,  # not "just now": a redelivered job gets the answer that it got before
        birth_certificate=certificate.to_base64(),
    )


def _outcome_for(job: GenerateJob, first: GenerateReply | SignerError) -> Outcome:
    """Return the outcome of a job from that of the first job for the same user id."""
    if isinstance(first, SignerError):
        return Failed(first)
    if job.job_id == first.job_id:
        return Answered(first)
    return Answered(first.model_copy(update={"job_id": job.job_id, "created": False}))
