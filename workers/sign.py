"""The sign worker: records from the store, signatures from an enclave, and nothing is answered before it verifies."""

from collections.abc import Sequence
from typing import Literal, Protocol

import structlog

from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.jobs import Job, SignJob, SignReply
from protocol.keyrecord import KeyRecord
from protocol.messages import SignItem
from workers.enclave_calls import FromEnclave
from workers.keystore import KeyStore
from workers.outcome import Answered, Failed, Outcome
from workers.verify import verify_signature

log = structlog.get_logger()


class Signers(Protocol):
    """The signer enclaves, see `workers.enclave_pool`."""

    async def call(self, items: Sequence[SignItem]) -> list[FromEnclave[bytes] | SignerError]:
        """Return a signature or an error for each item."""
        ...


class SignHandler:
    """Does sign jobs (`workers.outcome.JobHandler`). Each signature that leaves is one audit event."""

    job_type: Literal["sign"] = "sign"

    def __init__(self, store: KeyStore, signers: Signers) -> None:
        self._store = store
        self._signers = signers

    async def handle(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Sign; return an outcome for each job, in their order."""
        signs = [job for job in jobs if isinstance(job, SignJob)]
        outcomes = iter(await self._sign(signs))
        return [
            next(outcomes) if isinstance(job, SignJob) else Failed(SignerError(ErrorCode.WRONG_QUEUE)) for job in jobs
        ]

    async def _sign(self, jobs: Sequence[SignJob]) -> list[Outcome]:
        found = await self._store.get(job.userid for job in jobs)
        known = [(job, record) for job in jobs if isinstance(record := found[job.userid], KeyRecord)]
        answers = iter(await self._signers.call([_item(job, record) for job, record in known]))
        return [
            Failed(record)
            if isinstance(record := found[job.userid], SignerError)
            else _judge(job, record, next(answers))
            for job in jobs
        ]


def _item(job: SignJob, record: KeyRecord) -> SignItem:
    return SignItem(
        userid=job.userid,
        record=record.record,
        message=job.message_bytes,
        digest=job.digest,
        scheme=job.scheme,
        format=job.format,
    )


def _judge(job: SignJob, record: KeyRecord, answer: FromEnclave[bytes] | SignerError) -> Outcome:
    """Verify what the enclave signed; make the reply and the audit event."""
    if isinstance(answer, SignerError):
        return Failed(answer)
    digest = digest_of(job.message_bytes, job.digest)
    publickey = record.public_key.hex()
    audit = log.bind(
        job_id=job.job_id,
        userid=job.userid,
        digest=digest.hex(),
        publickey=publickey,
        module_id=answer.enclave.module_id,
    )
    try:
        verify_signature(answer.value, digest, record.public_key, job.scheme, job.format)
    except SignerError as error:
        audit.error("signature_refused")
        return Failed(error)
    audit.info("signature_made")
    return Answered(SignReply(job_id=job.job_id, userid=job.userid, signature=answer.value.hex(), publickey=publickey))
