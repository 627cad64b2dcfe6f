"""The sign worker: records from the store, signatures from an enclave, and nothing is answered before it verifies.

Single and bulk jobs go the same way: the signatures that they ask for share reads, frames and errors.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog

from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.jobs import (
    BadBatchItem,
    BatchFailure,
    BatchResult,
    BatchSignature,
    Job,
    ReplyError,
    SignBatchItem,
    SignBatchJob,
    SignBatchReply,
    SignJob,
    SignReply,
    SignRequest,
)
from protocol.keyrecord import KeyRecord
from protocol.messages import SignItem
from workers.enclaves.calls import FromEnclave
from workers.keys.keystore import KeyStore
from workers.queue.outcome import Answered, Failed, Outcome
from workers.verify import verify_signature

_VERIFIED_PER_TURN: Final = 64
"""Signatures verified before other tasks get their turn of the event loop: about 5 ms."""

log = structlog.get_logger()


class Signers(Protocol):
    """The signer enclaves, see `workers.enclaves.pool`."""

    async def call(self, items: Sequence[SignItem]) -> list[FromEnclave[bytes] | SignerError]:
        """Return a signature or an error for each item."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A signature that is asked for."""

    job_id: str
    request: SignRequest
    message: bytes
    item: int | None = None
    """Its place in a bulk job."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A signature that was verified, and the public key that verified it, as replies show them."""

    signature: str
    publickey: str


class SignHandler:
    """Does sign jobs (`workers.queue.outcome.JobHandler`). Each signature that leaves is one audit event."""

    job_type: Literal["sign"] = "sign"

    def __init__(self, store: KeyStore, signers: Signers) -> None:
        self._store = store
        self._signers = signers

    async def handle(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Sign; return an outcome for each job, in their order."""
        signed = iter(await self._sign([asked for job in jobs for asked in _asked_by(job)]))
        return [_outcome(job, signed) for job in jobs]

    async def _sign(self, asked: Sequence[_Asked]) -> list[_Signed | SignerError]:
        found = await self._store.get(one.request.userid for one in asked)
        known = [(one, record) for one in asked if isinstance(record := found[one.request.userid], KeyRecord)]
        answers = iter(await self._signers.call([_item(one, record) for one, record in known]))
        results: list[_Signed | SignerError] = []
        audit = log.bind()  # once for all: to bind a logger costs a third of its line
        for place, one in enumerate(asked):
            if place and place % _VERIFIED_PER_TURN == 0:
                await asyncio.sleep(0)
            record = found[one.request.userid]
            results.append(record if isinstance(record, SignerError) else _judge(one, record, next(answers), audit))
        return results


def _asked_by(job: Job) -> list[_Asked]:
    if isinstance(job, SignJob):
        return [_Asked(job.job_id, job, job.message_bytes)]
    if isinstance(job, SignBatchJob):
        return [
            _Asked(job.job_id, item, item.message_bytes, place)
            for place, item in enumerate(job.items)
            if isinstance(item, SignBatchItem)
        ]
    return []


def _item(asked: _Asked, record: KeyRecord) -> SignItem:
    request = asked.request
    return SignItem(
        userid=request.userid,
        record=record.record,
        message=asked.message,
        digest=request.digest,
        scheme=request.scheme,
        format=request.format,
    )


def _judge(
    asked: _Asked,
    record: KeyRecord,
    answer: FromEnclave[bytes] | SignerError,
    audit: structlog.typing.FilteringBoundLogger,
) -> _Signed | SignerError:
    """Verify what the enclave signed, and write the audit event."""
    if isinstance(answer, SignerError):
        return answer
    request = asked.request
    digest = digest_of(asked.message, request.digest)
    publickey = record.public_key.hex()
    facts: dict[str, str | int | None] = {
        "job_id": asked.job_id,
        "userid": request.userid,
        "digest": digest.hex(),
        "publickey": publickey,
        "module_id": answer.enclave.module_id,
    }
    if asked.item is not None:
        facts["item"] = asked.item
    try:
        verify_signature(answer.value, digest, record.public_key, request.scheme, request.format)
    except SignerError as error:
        audit.error("signature_refused", **facts)
        return error
    audit.info("signature_made", **facts)
    return _Signed(answer.value.hex(), publickey)


def _outcome(job: Job, signed: Iterator[_Signed | SignerError]) -> Outcome:
    """Return the outcome of a job; `signed` has what its signatures became, then those of the jobs after it."""
    if isinstance(job, SignBatchJob):
        return _batch_outcome(job, signed)
    if not isinstance(job, SignJob):
        return Failed(SignerError(ErrorCode.WRONG_QUEUE))
    result = next(signed)
    if isinstance(result, SignerError):
        return Failed(result)
    return Answered(
        SignReply(job_id=job.job_id, userid=job.userid, signature=result.signature, publickey=result.publickey)
    )


def _batch_outcome(job: SignBatchJob, signed: Iterator[_Signed | SignerError]) -> Outcome:
    """Return the outcome of a bulk job. One that another try may make better is tried again as a whole.

    That is harmless, because the same job gives the same signatures, and cheap, because opened keys are cached.
    """
    results: list[BatchResult] = []
    to_try_again: SignerError | None = None
    for place, item in enumerate(job.items):
        if isinstance(item, BadBatchItem):
            result: _Signed | SignerError = SignerError(ErrorCode.BAD_REQUEST, f"items.{place}: {item.detail}")
        else:
            result = next(signed)
        if isinstance(result, SignerError) and result.code.retryable:
            to_try_again = to_try_again or result
        results.append(_batch_result(place, item, result))
    reply = SignBatchReply(job_id=job.job_id, results=tuple(results))
    return Answered(reply) if to_try_again is None else Failed(to_try_again, reply)


def _batch_result(place: int, item: SignBatchItem | BadBatchItem, result: _Signed | SignerError) -> BatchResult:
    if isinstance(result, SignerError):
        return BatchFailure(index=place, item_id=item.item_id, userid=item.userid, error=ReplyError.of(result))
    return BatchSignature(
        index=place,
        item_id=item.item_id,
        userid=item.userid or "",
        signature=result.signature,
        publickey=result.publickey,
    )
