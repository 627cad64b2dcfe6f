"""One worker process, put together: queue engine, key store, enclaves, signals."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from typing import Final

import structlog
from aiobotocore.session import AioSession, get_session

from config.worker import WorkerRole, WorkerSettings
from protocol.clock import Clock
from protocol.version import SOFTWARE
from workers.aws import dynamodb_client, sqs_client
from workers.credentials import SdkCredentials
from workers.dynamodb import DynamoDbCalls
from workers.enclave_calls import GENERATE, SIGN
from workers.enclave_pool import open_enclave_pool
from workers.engine import Engine
from workers.gate import Gate
from workers.generate import GenerateHandler
from workers.keystore import KeyStore
from workers.outcome import JobHandler
from workers.sdnotify import Notifier
from workers.sign import SignHandler
from workers.stopping import Stop

_MAX_STORE_CONNECTIONS: Final = 64
"""Reads are collected a hundred at a time; only generate jobs, which are rare, have calls of their own."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker takes from outside, so that tests can bring their own."""

    clock: Clock
    """Wall-clock time, for what is stored."""
    uniform: Callable[[], float]
    """A random number in [0, 1), for pauses only."""
    notifier: Notifier


async def run_worker(role: WorkerRole, settings: WorkerSettings, surroundings: Surroundings) -> bool:
    """Work until SIGTERM or SIGINT, then drain; a second signal stops.

    Returns:
        whether every message was settled; those that were not come again after their visibility timeout.
    """
    engine_settings = settings.role(role).engine
    session = get_session()
    session.set_config_variable("region", settings.region)
    stop = Stop()
    with _stop_signals(stop):
        async with (
            sqs_client(
                session,
                connections=engine_settings.connections,
                read_timeout_s=engine_settings.wait_time_s + engine_settings.call_timeout_s,
            ) as sqs,
            _open_store(session, settings, connections=min(engine_settings.slots, _MAX_STORE_CONNECTIONS)) as store,
            _open_handler(role, settings, store, session, surroundings) as (handler, enclaves),
        ):
            engine = Engine(
                engine_settings, handler, sqs, clock=time.monotonic, uniform=surroundings.uniform, gate=enclaves
            )
            log.info("worker_started", software=SOFTWARE)
            async with _attended(surroundings.notifier, enclaves, stop):
                await engine.run(stop)
    left = engine.status.in_flight
    log.info("worker_ended", in_flight=left)
    return left == 0


@contextlib.contextmanager
def _stop_signals(stop: Stop) -> Generator[None, None, None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _open_store(
    session: AioSession, settings: WorkerSettings, *, connections: int
) -> AsyncGenerator[KeyStore, None]:
    store = settings.store
    async with (
        dynamodb_client(session, connections=connections, read_timeout_s=store.call_timeout_s, tries=1) as client,
        asyncio.TaskGroup() as group,
    ):
        calls = DynamoDbCalls(client, call_timeout_s=store.call_timeout_s, tries=store.call_tries)
        yield KeyStore(calls, store, group)


@contextlib.asynccontextmanager
async def _open_handler(
    role: WorkerRole, settings: WorkerSettings, store: KeyStore, session: AioSession, surroundings: Surroundings
) -> AsyncGenerator[tuple[JobHandler, Gate], None]:
    """Open the enclaves of a role; yield the handler of its jobs, and a gate that is closed while none is up."""
    addresses = settings.role(role).enclaves
    credentials = SdkCredentials(session)
    if role == "sign":
        async with open_enclave_pool(
            addresses,
            SIGN,
            settings.enclave,
            credentials,
            kms_key_arn=settings.kms_key_arn,
            uniform=surroundings.uniform,
        ) as signers:
            yield SignHandler(store, signers), signers
    else:
        async with open_enclave_pool(
            addresses,
            GENERATE,
            settings.enclave,
            credentials,
            kms_key_arn=settings.kms_key_arn,
            uniform=surroundings.uniform,
        ) as generators:
            yield GenerateHandler(store, generators, surroundings.clock), generators


@contextlib.asynccontextmanager
async def _attended(notifier: Notifier, enclaves: Gate, stop: Stop) -> AsyncGenerator[None, None]:
    """Tell systemd how it goes: alive all the time, ready once an enclave is, stopping when a drain begins."""

    async def tell() -> None:
        notifier.status("waiting for an enclave")
        await enclaves.wait_open()
        notifier.status("working")
        notifier.ready()

    async def tell_end() -> None:
        await stop.draining.wait()
        notifier.stopping()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part()) for part in (notifier.keep_alive, tell, tell_end)]
        yield
        for task in tasks:
            task.cancel()
