"""What an enclave answers to each request: values in, values out. It knows no sockets."""

import asyncio
from dataclasses import dataclass
from typing import Final

from config.enclave import MeasuredConfig
from enclave.batch import each
from enclave.credentials import CredentialStore
from enclave.generator import Generator
from enclave.key_cache import KeyCache
from enclave.kms import KmsClient
from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError
from enclave.readiness import Readiness
from enclave.signer import Signer
from protocol.errors import ErrorCode, SignerError
from protocol.live import LiveFacts, live_user_data
from protocol.messages import (
    PROTOCOL_VERSION,
    Attest,
    AttestResult,
    BadItem,
    EnclaveFacts,
    ErrorBody,
    Generate,
    GeneratedKey,
    GenerateItem,
    GenerateItemResult,
    GenerateResult,
    Hello,
    HelloResult,
    Limits,
    Request,
    Result,
    SetCredentials,
    SetCredentialsResult,
    Sign,
    SignItem,
    SignResult,
    Status,
    StatusResult,
)
from protocol.version import SOFTWARE

_SIGNATURES_PER_TURN: Final = 16
"""Signatures made before other connections get their turn of the event loop: under 2 ms."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a started enclave works with. Exactly one of generator and signer is there: roles are images."""

    measured: MeasuredConfig
    nsm: Nsm
    kms: KmsClient
    generator: Generator | None
    signer: Signer | None
    cache: KeyCache


class EnclaveService:
    """The request processor of one server process. `work` is None until, or unless, the enclave could start."""

    def __init__(self, facts: EnclaveFacts, limits: Limits, credentials: CredentialStore) -> None:
        self.facts = facts
        self.limits = limits
        self.credentials = credentials
        self.readiness = Readiness(credentials)
        self.work: Work | None = None
        self._in_flight = 0
        self._signatures = 0
        self._keys_generated = 0

    async def handle(self, request: Request) -> Result:
        """Do one request.

        Raises:
            SignerError: only its code reaches the peer.
        """
        self._in_flight += 1
        try:
            match request:
                case Hello():
                    return self._hello()
                case SetCredentials():
                    self.credentials.replace(request)
                    return SetCredentialsResult(expires_in_s=self.credentials.expires_in_s)
                case Status():
                    return self._status()
                case Attest():
                    return await self._attest(request)
                case Generate():
                    return await self._generate(request)
                case _:  # Sign: the type checkers know
                    return await self._sign(request)
        finally:
            self._in_flight -= 1

    def _hello(self) -> HelloResult:
        reason = self.readiness.reason
        return HelloResult(
            version=PROTOCOL_VERSION, limits=self.limits, enclave=self.facts, ready=reason is None, reason=reason
        )

    def _status(self) -> StatusResult:
        reason = self.readiness.reason
        return StatusResult(
            ready=reason is None,
            reason=reason,
            credentials_expire_in_s=self.credentials.expires_in_s,
            in_flight=self._in_flight - 1,  # without the one that asks
            counters=self._counters(),
        )

    def _counters(self) -> dict[str, int]:
        work = self.work
        if work is None:
            return {}
        return {
            "signatures": self._signatures,
            "keys_generated": self._keys_generated,
            "kms_calls": work.kms.calls,
            "kms_throttles": work.kms.throttles,
            "cache_entries": len(work.cache),
            "cache_hits": work.cache.hits,
            "cache_misses": work.cache.misses,
        }

    def _started(self) -> Work:
        """Return what to work with, if the enclave could start: enough for attesting."""
        if self.work is None:
            raise SignerError(ErrorCode.NOT_READY)
        return self.work

    def _ready(self) -> Work:
        """Return what to work with, if KMS can be called as well."""
        if self.readiness.reason is not None:
            raise SignerError(ErrorCode.NOT_READY)
        return self._started()

    async def _attest(self, request: Attest) -> AttestResult:
        work = self._started()
        config = work.measured.config
        facts = LiveFacts(
            role=config.role,
            software=SOFTWARE,
            config_sha256=work.measured.sha256,
            kms_key_arn=config.kms_key_arn,
            instance=self.facts.instance,
        ).to_bytes()
        try:
            document = await work.nsm.attest(user_data=live_user_data(facts), nonce=request.nonce, public_key=None)
        except NsmError as error:
            raise SignerError(ErrorCode.NSM_FAILED) from error
        return AttestResult(document=document, facts=facts)

    async def _generate(self, request: Generate) -> GenerateResult:
        work = self._ready()
        generator = work.generator
        if generator is None:
            raise SignerError(ErrorCode.NOT_ALLOWED)
        self._check_size(len(request.items))

        async def one(item: GenerateItem | BadItem) -> GeneratedKey:
            if isinstance(item, BadItem):
                raise SignerError(ErrorCode.BAD_REQUEST)
            return await generator.generate(item.userid)

        outcomes = await each(request.items, one, timeout_s=work.measured.config.limits.request_timeout_s)
        self._keys_generated += sum(isinstance(outcome, GeneratedKey) for outcome in outcomes)
        return GenerateResult(
            results=tuple(
                GenerateItemResult(error=ErrorBody.of(outcome.code))
                if isinstance(outcome, SignerError)
                else GenerateItemResult(key=outcome)
                for outcome in outcomes
            )
        )

    async def _sign(self, request: Sign) -> SignResult:
        work = self._ready()
        signer = work.signer
        if signer is None:
            raise SignerError(ErrorCode.NOT_ALLOWED)
        self._check_size(len(request.items))
        outcomes: list[bytes | SignerError | None] = []
        for place, item in enumerate(request.items):
            if place and place % _SIGNATURES_PER_TURN == 0:
                await asyncio.sleep(0)
            outcomes.append(_sign_if_open(signer, item))
        cold = [place for place, outcome in enumerate(outcomes) if outcome is None]
        if cold:
            # A bad item already has its error, so what is cold is a whole item.
            items = [item for place in cold if isinstance(item := request.items[place], SignItem)]
            timeout_s = work.measured.config.limits.request_timeout_s
            for place, outcome in zip(cold, await each(items, signer.sign, timeout_s=timeout_s), strict=True):
                outcomes[place] = outcome
        self._signatures += sum(isinstance(outcome, bytes) for outcome in outcomes)
        # checked all at once: to make each item's result by itself costs three times as much
        return SignResult.model_validate({"results": [_sign_result(outcome) for outcome in outcomes]})

    def _check_size(self, items: int) -> None:
        if items > self.limits.max_batch_items:
            raise SignerError(ErrorCode.BAD_REQUEST)


def _sign_result(outcome: bytes | SignerError | None) -> dict[str, bytes | ErrorBody]:
    if isinstance(outcome, bytes):
        return {"signature": outcome}
    return {"error": ErrorBody.of(outcome.code if outcome else ErrorCode.INTERNAL)}


def _sign_if_open(signer: Signer, item: SignItem | BadItem) -> bytes | SignerError | None:
    if isinstance(item, BadItem):
        return SignerError(ErrorCode.BAD_REQUEST)
    try:
        return signer.sign_if_open(item)
    except SignerError as error:
        return error
