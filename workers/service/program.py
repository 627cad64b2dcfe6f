"""One worker process, put together: queue engine, key store, enclaves, brakes, signals, health."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from aiobotocore.session import AioSession, get_session

from config.worker import BrakeSettings, WorkerRole, WorkerSettings
from protocol.clock import Clock
from protocol.version import SOFTWARE
from workers.aws import dynamodb_client, sqs_client
from workers.brakes import BrakedSigners, Freezes, PauseSwitch, RateLimit, Signers
from workers.enclaves.calls import GENERATE, SIGN
from workers.enclaves.counts import EnclaveCounts
from workers.enclaves.credentials import CredentialSource, SdkCredentials, seconds_left
from workers.enclaves.pool import open_enclave_pool
from workers.generate import GenerateHandler
from workers.keys.dynamodb import DynamoDbCalls
from workers.keys.keystore import KeyStore
from workers.queue.engine import Engine
from workers.queue.gate import AllOpen, Gate
from workers.queue.outcome import JobHandler
from workers.queue.stopping import Stop
from workers.service.health import REPORT_INTERVAL_S, REPORT_SOON_S, ProcessHealth
from workers.service.reporting import Reporter, Sources
from workers.service.sdnotify import Notifier
from workers.sign import SignHandler
from workers.stage_times import StageTimes

_MAX_STORE_CONNECTIONS: Final = 64
"""Reads are collected a hundred at a time; only generate jobs, which are rare, have calls of their own."""

log = structlog.get_logger()


def _tell_nobody(_: ProcessHealth | str) -> None:
    """Say nothing: nobody asks for the health or the metrics of this process."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker takes from outside, so that tests can bring their own."""

    clock: Clock
    """Wall-clock time, for what is stored, and for the expiry of credentials."""
    uniform: Callable[[], float]
    """A random number in [0, 1), for pauses only."""
    notifier: Notifier
    tell_health: Callable[[ProcessHealth], None] = _tell_nobody
    """Takes a report every few seconds."""
    write_line: Callable[[str], object] = _tell_nobody
    """Takes a line of embedded metrics a minute."""
    reports_enclaves: bool = True
    """Whether the enclaves' own counts are in it: one process of an instance reports them."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a role brings."""

    handler: JobHandler
    enclaves: Gate
    """Open while any enclave is up."""
    store: KeyStore
    enclave_counts: Callable[[], Mapping[str, EnclaveCounts]]
    pause: PauseSwitch | None = None


async def run_worker(role: WorkerRole, settings: WorkerSettings, surroundings: Surroundings) -> bool:
    """Work until SIGTERM or SIGINT, then drain; a second signal stops.

    Returns:
        whether every message was settled; those that were not come again after their visibility timeout.
    """
    engine_settings = settings.role(role).engine
    session = get_session()
    session.set_config_variable("region", settings.region)
    credentials = SdkCredentials(session)
    stop = Stop()
    times = StageTimes()
    with stop_signals(stop):
        async with (
            sqs_client(
                session,
                connections=engine_settings.connections,
                read_timeout_s=engine_settings.wait_time_s + engine_settings.call_timeout_s,
            ) as sqs,
            _open_dynamodb(session, settings, connections=min(engine_settings.slots, _MAX_STORE_CONNECTIONS)) as calls,
            _open_parts(role, settings, calls, credentials, surroundings, times) as parts,
        ):
            engine = Engine(
                engine_settings,
                parts.handler,
                sqs,
                clock=time.monotonic,
                uniform=surroundings.uniform,
                gate=AllOpen([gate for gate in (parts.enclaves, parts.pause) if gate is not None]),
                times=times,
            )
            sources = Sources(
                engine=engine,
                store=parts.store,
                times=times,
                credentials=credentials,
                enclaves=parts.enclave_counts if surroundings.reports_enclaves else None,
            )
            reporter = Reporter(role, sources, clock=surroundings.clock, write_line=surroundings.write_line)
            log.info("worker_started", software=SOFTWARE)
            async with _attended(surroundings, engine, parts, credentials, reporter, stop):
                await engine.run(stop)
            await reporter.write()
    left = engine.status.in_flight
    log.info("worker_ended", in_flight=left)
    return left == 0


@contextlib.contextmanager
def stop_signals(stop: Stop) -> Generator[None, None, None]:
    """Have SIGTERM and SIGINT ask for a stop, until the end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _open_dynamodb(
    session: AioSession, settings: WorkerSettings, *, connections: int
) -> AsyncGenerator[DynamoDbCalls, None]:
    store = settings.store
    async with dynamodb_client(
        session, connections=connections, read_timeout_s=store.call_timeout_s, tries=1
    ) as client:
        yield DynamoDbCalls(client, call_timeout_s=store.call_timeout_s, tries=store.call_tries)


@contextlib.asynccontextmanager
async def _open_parts(
    role: WorkerRole,
    settings: WorkerSettings,
    calls: DynamoDbCalls,
    credentials: CredentialSource,
    surroundings: Surroundings,
    times: StageTimes,
) -> AsyncGenerator[_Parts, None]:
    """Open the enclaves of a role, its key store and its brakes."""
    addresses, uniform = settings.role(role).enclaves, surroundings.uniform
    async with asyncio.TaskGroup() as group:
        store = KeyStore(calls, settings.store, group)
        if role == "generate":
            async with open_enclave_pool(
                addresses,
                GENERATE,
                settings.enclave,
                credentials,
                kms_key_arn=settings.kms_key_arn,
                uniform=uniform,
                times=times,
            ) as generators:
                handler = GenerateHandler(store, generators, surroundings.clock)
                yield _Parts(handler, generators, store, generators.counts)
            return
        async with open_enclave_pool(
            addresses,
            SIGN,
            settings.enclave,
            credentials,
            kms_key_arn=settings.kms_key_arn,
            uniform=uniform,
            times=times,
        ) as signers:
            braked = _brake(signers, settings.brakes, calls, group)
            async with _open_pause(settings.brakes, calls) as pause:
                yield _Parts(SignHandler(store, braked), signers, store, signers.counts, pause)


def _brake(signers: Signers, brakes: BrakeSettings, calls: DynamoDbCalls, group: asyncio.TaskGroup) -> BrakedSigners:
    freezes = rate_limit = None
    if brakes.table is not None:
        freezes = Freezes(calls, brakes.table, brakes.freeze_cache_s, group, time.monotonic)
    if brakes.signatures_per_s is not None:
        rate_limit = RateLimit(brakes.signatures_per_s, brakes.signature_burst, time.monotonic)
    return BrakedSigners(signers, freezes, rate_limit)


@contextlib.asynccontextmanager
async def _open_pause(brakes: BrakeSettings, calls: DynamoDbCalls) -> AsyncGenerator[PauseSwitch | None, None]:
    if brakes.table is None:
        yield None
        return
    pause = PauseSwitch(calls, brakes.table, brakes, time.monotonic)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(pause.run(), name="pause switch")
        try:
            yield pause
        finally:
            reading.cancel()


@contextlib.asynccontextmanager
async def _attended(
    surroundings: Surroundings,
    engine: Engine,
    parts: _Parts,
    credentials: CredentialSource,
    reporter: Reporter,
    stop: Stop,
) -> AsyncGenerator[None, None]:
    """Tell systemd how it goes: alive all the time, ready once an enclave is, stopping when a drain begins."""
    notifier = surroundings.notifier

    async def tell() -> None:
        notifier.status("waiting for an enclave")
        await parts.enclaves.wait_open()
        notifier.status("working")
        notifier.ready()

    async def tell_end() -> None:
        await stop.draining.wait()
        notifier.stopping()

    async def tell_health() -> None:
        while True:
            health = await _health(engine, parts, credentials, surroundings.clock)
            surroundings.tell_health(health)
            takes_jobs = health.enclave_up and not health.paused
            await asyncio.sleep(REPORT_INTERVAL_S if takes_jobs else REPORT_SOON_S)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part()) for part in (notifier.keep_alive, tell, tell_end, tell_health, reporter.run)]
        yield
        for task in tasks:
            task.cancel()


async def _health(engine: Engine, parts: _Parts, credentials: CredentialSource, clock: Clock) -> ProcessHealth:
    status = engine.status
    return ProcessHealth(
        enclave_up=parts.enclaves.is_open,
        paused=parts.pause is not None and not parts.pause.is_open,
        draining=status.draining,
        in_flight=status.in_flight,
        last_poll_age_s=round(status.last_poll_age_s, 3),
        credentials_left_s=await seconds_left(credentials, clock),
    )
