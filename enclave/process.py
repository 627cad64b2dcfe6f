"""One server process of an enclave: made from its parts, started, served until cancelled."""

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import Final

import structlog

from config.enclave import EnclaveConfig, LimitSettings, MeasuredConfig
from enclave.attested_clock import AttestedClock, ClockSetter
from enclave.credentials import CredentialStore
from enclave.event_log import EventLog, configure_logging
from enclave.generator import Generator
from enclave.hardening import forbid_dumps, lock_memory
from enclave.key_cache import KeyCache
from enclave.kms import open_kms
from enclave.nsm import Nsm, NsmTransport
from enclave.random_source import KmsSeeds
from enclave.recipient import RecipientSource
from enclave.selftest import StartCheckError, check_nsm
from enclave.service import EnclaveService, Work
from enclave.signer import Signer
from protocol.address import Address
from protocol.clock import Clock
from protocol.messages import EnclaveFacts, Limits, NotReadyReason, Role
from protocol.server import Server, ServerLimits
from protocol.transport import listen
from protocol.version import SOFTWARE

_INSTANCE_BYTES: Final = 16

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProcessParts:
    """What a server process is made of; the composition root decides each."""

    measured: MeasuredConfig | None
    """None when the measured configuration cannot be used: the process then only says so."""

    address: Address
    processes: int
    nsm: NsmTransport
    clock: Clock
    clock_setter: ClockSetter | None
    must_lock_memory: bool
    """Whether work is refused when memory cannot be locked."""


async def run_process(parts: ProcessParts) -> None:
    """Serve until cancelled. Whatever goes wrong at start, `hello` is answered and tells the reason."""
    event_log = EventLog(parts.clock)
    configure_logging(event_log)
    forbid_dumps()
    is_locked = lock_memory()
    limits = parts.measured.config.limits if parts.measured else LimitSettings()
    service = EnclaveService(_facts(parts), _limits(limits), CredentialStore(parts.clock))
    server = Server(service, _server_limits(limits), _report)
    nsm = Nsm(parts.nsm)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(listen(parts.address)))
        group.create_task(event_log.deliver(server.publish))
        try:
            _check_memory(is_locked=is_locked, must_lock=parts.must_lock_memory)
            await _work(parts, service, nsm)
        except StartCheckError as error:
            service.readiness.start_failure = error.reason
            _log.error("start_failed", reason=error.reason)
        finally:
            nsm.close()


def _check_memory(*, is_locked: bool, must_lock: bool) -> None:
    if not is_locked:
        _log.warning("memory_not_locked")
        if must_lock:
            raise StartCheckError(NotReadyReason.SELF_TEST_FAILED, "memory cannot be locked")


async def _work(parts: ProcessParts, service: EnclaveService, nsm: Nsm) -> None:
    """Start, then do the background work until cancelled.

    Raises:
        StartCheckError: the reason for which this enclave will not work.
    """
    if parts.measured is None:
        raise StartCheckError(NotReadyReason.BAD_CONFIG, "the measured configuration cannot be used")
    config = parts.measured.config
    facts = await check_nsm(nsm, allow_debug=config.allow_debug)
    service.facts = service.facts.model_copy(update={"module_id": facts.module_id, "pcr0": facts.pcr0})
    recipients = RecipientSource(nsm, config.attestation, time.monotonic)
    attested_clock = AttestedClock(nsm, config.clock, parts.clock, parts.clock_setter)
    async with contextlib.AsyncExitStack() as stack:
        try:
            kms = await stack.enter_async_context(open_kms(config, service.credentials, recipients))
        except OSError as error:
            raise StartCheckError(NotReadyReason.BAD_CONFIG, "the KMS client cannot be made") from error
        cache = KeyCache(config.key_cache, time.monotonic)
        seeds = KmsSeeds(kms)
        stack.callback(seeds.wipe)
        is_generator = config.role is Role.GENERATOR
        service.work = Work(
            measured=parts.measured,
            nsm=nsm,
            kms=kms,
            generator=Generator(kms, nsm, seeds, config.kms_key) if is_generator else None,
            signer=None if is_generator else Signer(kms, cache, config.kms_key),
            cache=cache,
        )
        await attested_clock.check(service.readiness)
        service.readiness.start_failure = None
        _log.info("started")
        async with asyncio.TaskGroup() as group:
            group.create_task(recipients.rotate())
            group.create_task(attested_clock.watch(service.readiness))
            group.create_task(cache.sweep())


def _report(event: str, error: BaseException) -> None:
    _log.error(event, error_type=type(error).__name__)


def _facts(parts: ProcessParts) -> EnclaveFacts:
    config: EnclaveConfig | None = parts.measured.config if parts.measured else None
    return EnclaveFacts(
        role=config.role if config else None,
        software=SOFTWARE,
        instance=secrets.token_bytes(_INSTANCE_BYTES),
        module_id=None,
        pcr0=None,
        config_sha256=parts.measured.sha256 if parts.measured else None,
        kms_key_arn=config.kms_key_arn if config else None,
        processes=parts.processes,
    )


def _limits(limits: LimitSettings) -> Limits:
    return Limits(
        max_frame_bytes=limits.max_frame_bytes,
        max_batch_items=limits.max_batch_items,
        max_in_flight=limits.max_in_flight,
    )


def _server_limits(limits: LimitSettings) -> ServerLimits:
    return ServerLimits(
        max_connections=limits.max_connections,
        max_in_flight=limits.max_in_flight,
        max_frame_bytes=limits.max_frame_bytes,
        frame_timeout_s=limits.frame_timeout_s,
    )
