"""One run: a stack, its clients, faults and kills for a while, calm until all has settled, then judgement."""

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from local.kms import KmsFaults
from local.stack import LocalStack, run_stack
from local.stack_options import AwsEndpoints, StackOptions
from protocol.attestation import TrustRoot
from tests.chaos.checker import Checker, Verdict
from tests.chaos.clients import Clients, open_clients
from tests.chaos.faults import Fates
from tests.chaos.history import History
from tests.chaos.jobs import JobSource
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import make_plan
from tests.chaos.proxy import FaultProxy
from tests.chaos.report import Report

_MAX_OPEN_JOBS: Final = 400
_BURST: Final = 20
_TICK_S: Final = 0.05

_ENGINE: Final = {
    "VISIBILITY_TIMEOUT_S": "8",
    "VISIBILITY_MARGIN_S": "1",
    "MAX_EXTENSION_S": "60",
    "HANDLER_TIMEOUT_S": "12",
    "WAIT_TIME_S": "1",
    "CALL_TIMEOUT_S": "3",
    "BACKOFF_BASE_S": "0.2",
    "BACKOFF_CAP_S": "4",
    "RECEIVE_BACKOFF_CAP_S": "2",
    "MAX_RECEIVE_COUNT": "50",
    "DRAIN_DEADLINE_S": "10",
    "SETTLE_TIMEOUT_S": "5",
}
"""Short times, so that what runs out does so within a run. The receive count is high: jobs shall be done in the end."""


_KMS_FAULTS: Final = KmsFaults(throttle_rate=0.03, refuse_rate=0.02, drop_rate=0.02, delay_s=0.005)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """What a run is made of. The same options give the same plan, fates and jobs."""

    seed: int
    duration_s: float
    """With faults; the calm after it takes what it takes."""

    jobs: int
    settle_timeout_s: float
    """After the last fault: a job that is then still open is lost."""

    mean_pause_s: float | None = None
    """Between two events of the plan; None breaks nothing at all."""

    endpoints: AwsEndpoints | None = None
    """Other servers than MiniStack, which are not restarted: for runs that break nothing."""


async def run_chaos(options: ChaosOptions, state: Path) -> Report:
    """Run, and return what was seen."""
    fates = Fates(options.seed)
    proxy = FaultProxy(fates)
    history = History()
    breaks = options.mean_pause_s is not None
    plan = [] if options.mean_pause_s is None else make_plan(options.seed, options.duration_s, options.mean_pause_s)
    stack_options = StackOptions(
        endpoints=options.endpoints,
        front=proxy.front,
        kms_faults=replace(_KMS_FAULTS, seed=options.seed) if breaks else KmsFaults(),
        worker_environ=_worker_environ(),
    )
    begun = time.monotonic()
    async with run_stack(state, stack_options) as stack, open_clients(stack.facts, history) as clients:
        nemesis = Nemesis(stack, plan)
        fates.is_calm = not breaks
        settled_s = await _act(options, clients, nemesis, fates)
        nemesis.note_ended()
        verdict = _judge(stack, history, proxy)
    return Report(
        seed=options.seed,
        fault_s=options.duration_s,
        settle_s=round(settled_s, 1),
        total_s=round(time.monotonic() - begun, 1),
        requests=fates.requests,
        faults=dict(fates.counts),
        kms_requests=_count_kms_requests(stack),
        strikes=dict(nemesis.struck),
        failures=nemesis.failures,
        records=len(history.records),
        verdict=verdict,
    )


async def _act(options: ChaosOptions, clients: Clients, nemesis: Nemesis, fates: Fates) -> float:
    """Send, break, and wait until everything has settled; return how many seconds that took after the last fault."""
    facts = clients.facts
    async with asyncio.TaskGroup() as group:
        watchers = [
            group.create_task(clients.collect_replies()),
            group.create_task(clients.collect_dead_letters(facts.generate_dead_letter_queue_url)),
            group.create_task(clients.collect_dead_letters(facts.sign_dead_letter_queue_url)),
            group.create_task(clients.watch_tables()),
        ]
        async with asyncio.TaskGroup() as actors:
            actors.create_task(nemesis.run())
            actors.create_task(_send_all(options, clients))
        fates.is_calm = True
        calm_since = time.monotonic()
        await _until_settled(clients, options.settle_timeout_s)
        settled_s = time.monotonic() - calm_since
        for watcher in watchers:
            watcher.cancel()
    await clients.look_at_tables()
    return settled_s


async def _send_all(options: ChaosOptions, clients: Clients) -> None:
    """Send jobs evenly over the time of the faults, and never have too many open."""
    source, history = JobSource(options.seed), clients.history
    begun, made = time.monotonic(), 0
    while made < options.jobs:
        elapsed_s = time.monotonic() - begun
        due = int(options.jobs * min(1.0, elapsed_s / options.duration_s)) - made
        room = _MAX_OPEN_JOBS - len(history.open_jobs) if due > 0 else 0
        source.users = clients.users
        jobs = [job for _ in range(min(due, room, _BURST)) for job in source.next()]
        made += len(jobs)
        if jobs:
            await clients.send(jobs)
        else:
            await asyncio.sleep(_TICK_S)


async def _until_settled(clients: Clients, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while clients.history.open_jobs:
                clients.changed.clear()
                await clients.changed.wait()
    except TimeoutError:
        return  # the checker names the jobs that are lost


def _judge(stack: LocalStack, history: History, proxy: FaultProxy) -> Verdict:
    root = TrustRoot.from_pem(stack.layout.nitro_root.read_bytes())
    checker = Checker(root, {bytes.fromhex(stack.facts.generator_pcr0)})
    return checker.judge(history, proxy.puts, proxy.unconditional_puts)


def _count_kms_requests(stack: LocalStack) -> int:
    return stack.layout.audit.read_bytes().count(b"\n")


def _worker_environ() -> dict[str, str]:
    environ = {
        "NITRO_SIGNER_ENCLAVE__CALL_TIMEOUT_S": "8",
        "NITRO_SIGNER_ENCLAVE__RECONNECT_CAP_S": "1",
        "NITRO_SIGNER_STORE__CALL_TIMEOUT_S": "2",
    }
    for role in ("GENERATE", "SIGN"):
        environ[f"NITRO_SIGNER_{role}__WORKERS_PER_INSTANCE"] = "2"
        environ |= {f"NITRO_SIGNER_{role}__ENGINE__{name}": value for name, value in _ENGINE.items()}
    return environ
