"""The same jobs through this service and through its peers, in turn, round by round."""

import contextlib
from pathlib import Path
from typing import Final

from benchmarks.aws_server import AwsServer, run_aws_server
from benchmarks.figures import Row, Spread, ratios
from benchmarks.machine import cpu_seconds, pin
from benchmarks.peer_workers import FRAMEWORKS, Peer, run_peer
from benchmarks.service import SIGNER, USERS, WORKER, Service, Spent, run_service

PEER_JOBS: Final = 400
LOOP_JOBS: Final = 4_000
SINGLE_JOBS: Final = 4_000
BULK_JOBS: Final = 5
_WAVES: Final = 15
"""Of bulk jobs, after the rounds: in all about 100,000 signatures."""

Values = dict[str, list[float]]


def peer_jobs_per_cpu_second(peer: Peer, kind: str, count: int) -> float:
    """Have a peer do jobs; return how many it does for each CPU-second of its processes."""
    before, replies = cpu_seconds(peer.pid), peer.aws.counts()["replies"]
    peer.fill(kind, count)
    peer.aws.wait_for_replies(replies + count)
    return count / (cpu_seconds(peer.pid) - before)


async def compare(folder: Path, rounds: int) -> tuple[Values, dict[str, Spent], dict[str, float], Spread]:
    """Return jobs per CPU-second by name, costs of one round, memory after 100,000 signatures, and the growth."""
    values: Values = {}
    spent: dict[str, Spent] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    with contextlib.ExitStack() as parts:
        warm_aws, cold_aws = parts.enter_context(run_aws_server()), parts.enter_context(run_aws_server())
        pin([warm_aws.pid, cold_aws.pid], 1)
        peers = _start_peers(parts, warm_aws, folder)
        async with (
            run_service(folder / "warm", warm_aws) as warm,
            run_service(folder / "cold", cold_aws, NITRO_SIGNER_STORE__CACHE_RECORDS="0") as cold,
        ):
            for service in (warm, cold):
                service.generate(USERS)
                service.sign(2 * USERS)
            note("decrypts per cold key", warm.decrypts() / USERS)
            for _ in range(rounds):
                for name, peer in peers.items():
                    count = LOOP_JOBS if name == "plain" else PEER_JOBS
                    note(f"{name} noop", peer_jobs_per_cpu_second(peer, "noop", count))
                    if name in FRAMEWORKS:
                        note(f"{name} sign", peer_jobs_per_cpu_second(peer, "sign", count))
                spent["single"], spent["cold"] = warm.sign(SINGLE_JOBS), cold.sign(SINGLE_JOBS)
                spent["bulk"] = warm.sign_in_bulk(BULK_JOBS)
                for name, cost in spent.items():
                    note(f"ours {name}", cost.per_cpu_second(WORKER))
                    note(f"enclave of ours {name}", cost.per_cpu_second(SIGNER))
            growth = Spread.of([_growth(warm) for _ in range(min(2, rounds))])
            for _ in range(_WAVES):
                warm.sign_in_bulk(BULK_JOBS)
            spent["generate"] = warm.generate(USERS, first=USERS)
            return values, spent, warm.memory_mib(), growth


def _start_peers(parts: contextlib.ExitStack, aws: AwsServer, folder: Path) -> dict[str, Peer]:
    peers = {}
    for name in (*FRAMEWORKS, "sequential", "plain"):
        peer = peers[name] = parts.enter_context(run_peer(name, aws, folder))
        peer_jobs_per_cpu_second(peer, "noop", 50)  # it has started when it answers
        pin([peer.pid], 0)
    return peers


def _growth(service: Service) -> float:
    """Return what ten times the jobs, of ten times the depth, cost in CPU of the worker."""
    before = service.sign(1_000).cpu_s[WORKER]
    many = service.sign(10_000).cpu_s[WORKER]
    return many / ((before + service.sign(1_000).cpu_s[WORKER]) / 2)


def rows(values: Values) -> list[Row]:
    """Return the figures that have goals."""
    best = [max(peers) for peers in zip(*(values[f"{name} noop"] for name in FRAMEWORKS), strict=True)]
    plain = values["plain noop"]
    return [
        Row("single sign jobs, records warm: x the best peer's no-op", ratios(values["ours single"], best), 6),
        Row("single sign jobs, records warm: x the plain aiobotocore loop", ratios(values["ours single"], plain), 0.75),
        Row("single sign jobs, records cold: x the best peer's no-op", ratios(values["ours cold"], best), 4),
        Row("bulk jobs: signatures per CPU-second of the worker", Spread.of(values["ours bulk"]), 5_000),
    ]
