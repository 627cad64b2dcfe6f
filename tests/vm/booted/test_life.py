"""What a life brings: log events, a parent that goes and comes, an enclave that dies under load, and much work."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from protocol.messages import Role, Sign, SignItem, SignResult, Status, StatusResult
from tests.vm.booted.test_flow import birth, record_in, row_of, sign
from tests.vm.stand import PATIENCE_S, Stand, verify_signature

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600), pytest.mark.asyncio(loop_scope="session")]

JOBS = 60
SIGNATURES = 20_000
BATCH = 100
MAX_GROWTH_KIB = 16 * 1024
"""Of the whole machine over the last 15,000 signatures. A leak of two kilobytes each would be 30 MB."""


async def counters(stand: Stand, role: Role) -> dict[str, int]:
    """Return what an enclave has counted since its start."""
    async with stand.enclave(role) as channel:
        status = await channel.call(Status(), timeout_s=PATIENCE_S)
    assert isinstance(status, StatusResult)
    return status.counters


def sign_jobs(userid: str, prefix: str) -> list[dict[str, Any]]:
    """Return jobs with messages of their own."""
    return [
        {"type": "sign", "job_id": f"{prefix}-{number}", "userid": userid, "message": f"message {number}"}
        for number in range(JOBS)
    ]


def check_replies(replies: list[dict[str, Any]], public_key: str, prefix: str) -> None:
    """Check that each job has a signature of its own message. Delivery is at least once, so one may come twice."""
    by_job = {reply["job_id"]: reply for reply in replies}
    assert by_job.keys() == {f"{prefix}-{number}" for number in range(JOBS)}
    for number in range(JOBS):
        reply = by_job[f"{prefix}-{number}"]
        assert reply["status"] == "ok", reply
        verify_signature(public_key, reply["signature"], f"message {number}".encode())


def replies_to_all(stand: Stand, prefix: str) -> list[dict[str, Any]]:
    """Take replies until each job has one."""
    client = stand.client
    found: list[dict[str, Any]] = []
    while len({reply["job_id"] for reply in found}) < JOBS:
        found += [reply for reply in client.replies(1) if reply["job_id"].startswith(f"{prefix}-")]
    return found


def relayed_events(log: str) -> set[str]:
    """Return the names of an enclave's events in the log of its worker."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {line["event"] for line in lines if line.get("source") == "enclave"}


@pytest.mark.parametrize("worker", ["generate-worker", "sign-worker"])
async def test_log_events_of_the_enclave_arrive_at_the_parent(stand: Stand, worker: str) -> None:
    """An enclave has no console that anybody could read: even what it said before the worker came is in its log."""
    assert "started" in relayed_events(stand.log(worker))


async def test_an_enclave_killed_under_load_costs_no_job(stand: Stand) -> None:
    """Booted again amid the work: every job gets its signature, credentials come again, and caches begin cold."""
    born = birth(stand, "u-killed")
    stand.client.send("sign", *sign_jobs("u-killed", "killed"))
    await stand.local.kill_and_restart("signer-enclave")
    check_replies(replies_to_all(stand, "killed"), born["publickey"], "killed")
    counted = await counters(stand, Role.SIGNER)
    assert counted["cache_misses"] >= 1
    assert counted["kms_calls"] >= 1


async def test_a_parent_that_vanishes_and_returns_finds_its_enclave(stand: Stand) -> None:
    """Worker and proxy are killed with jobs waiting; the enclave stays up, and serves those that come after them."""
    born = birth(stand, "u-parent")
    async with stand.enclave(Role.SIGNER) as channel:
        instance = channel.hello.enclave.instance
    stand.client.send("sign", *sign_jobs("u-parent", "parent"))
    await stand.local.kill_and_restart("sign-worker")
    await stand.local.kill_and_restart("signer-proxy")
    check_replies(replies_to_all(stand, "parent"), born["publickey"], "parent")
    async with stand.enclave(Role.SIGNER) as channel:
        assert channel.hello.enclave.instance == instance


async def test_memory_stays_after_many_signatures(stand: Stand) -> None:
    """Twenty thousand signatures, in the memory of the whole machine as its kernel counts it."""
    birth(stand, "u-many")
    assert sign(stand, "u-many", "s-many")["status"] == "ok"
    record = record_in(row_of(stand, "u-many"))
    console = stand.platform.paths(stand.local.layout, Role.SIGNER).console
    used: dict[int, int] = {}
    async with stand.enclave(Role.SIGNER) as channel:
        for start in range(0, SIGNATURES, BATCH):
            items = tuple(
                SignItem(userid="u-many", record=record, message=b"%d" % number)
                for number in range(start, start + BATCH)
            )
            answer = await channel.call(Sign(items=items), timeout_s=PATIENCE_S)
            assert isinstance(answer, SignResult)
            assert all(result.error is None for result in answer.results)
            used[start + BATCH] = available_kib(console.read_text(errors="replace"))
    growth_kib = used[SIGNATURES // 4] - used[SIGNATURES]
    assert growth_kib <= MAX_GROWTH_KIB, f"the machine has {growth_kib} KiB less"


def available_kib(console: str) -> int:
    """Return the last line of the machine's own count."""
    return int(re.findall(r"MemAvailable:\s+(\d+) kB", console)[-1])
