"""The workers as operators meet them: stopped under load, several processes, health, brakes."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from typer.testing import CliRunner

from local.stack import LocalStack, run_stack
from local.stack_options import StackOptions
from tests.stack.harness import Client
from workers.cli.brakes import app

pytestmark = pytest.mark.stack

PROCESSES = 2
JOBS = 800


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


HEALTH_PORT = free_ports(1)[0]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncGenerator[LocalStack, None]:
    """A stack with two sign processes and a health endpoint."""
    environ = {
        "NITRO_SIGNER_SIGN__WORKERS_PER_INSTANCE": str(PROCESSES),
        "NITRO_SIGNER_SIGN__HEALTH_PORT": str(HEALTH_PORT),
        "NITRO_SIGNER_BRAKES__PAUSE_CHECK_S": "0.1",
        "NITRO_SIGNER_BRAKES__FREEZE_CACHE_S": "0",
    }
    async with run_stack(tmp_path, StackOptions(worker_environ=environ)) as running:
        yield running


def counts(client: Client, queue: str) -> tuple[int, int]:
    """How many messages of a queue are visible, and how many wait for their visibility timeout."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = client.sqs.get_queue_attributes(QueueUrl=client.facts[queue], AttributeNames=names)["Attributes"]
    return int(answer[names[0]]), int(answer[names[1]])


def sign_jobs(count: int, userid: str = "u") -> list[dict[str, Any]]:
    """Sign jobs for one user."""
    return [{"type": "sign", "job_id": f"s-{n}", "userid": userid, "message": f"m{n}"} for n in range(count)]


async def test_sigterm_under_load_settles_everything(stack: LocalStack) -> None:
    """Exit code 0 within the deadline; each job is answered or visible at once, none waits for its visibility."""
    client = Client(asdict(stack.facts))
    client.ask("generate", {"type": "generate", "job_id": "g", "userid": "u"})
    worker = stack.children["sign-worker"].process
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(client.send, "sign", *sign_jobs(JOBS)))  # and some arrive while it drains
        while counts(client, "sign_queue_url")[1] == 0:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0)
        worker.send_signal(signal.SIGTERM)
        code = await worker.wait()
    log = stack.layout.log("sign-worker").read_text()
    assert "drain_started" in log
    assert "drain_deadline_passed" not in log
    visible, invisible = counts(client, "sign_queue_url")
    answered = {reply["job_id"] for reply in client.replies(JOBS - visible)}
    assert (code, invisible) == (0, 0)
    assert len(answered) + visible == JOBS
    assert visible > 0  # else it was no load


async def get(path: str) -> tuple[int, dict[str, Any]]:
    """Ask the health endpoint."""
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{HEALTH_PORT}{path}") as response:
        return response.status, await response.json()


async def until(path: str, condition: Callable[[int, dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask until the answer is as it should become."""
    async with asyncio.timeout(60):
        while True:
            status, said = await get(path)
            if condition(status, said):
                return said
            await asyncio.sleep(0.05)


async def test_a_service_tells_its_health_and_restarts_a_killed_process(stack: LocalStack) -> None:
    """Both processes report; a killed one is named until it is back; an enclave that is down is no illness."""
    said = await until("/readyz", lambda status, _: status == 200)
    assert [process["process"] for process in said["processes"]] == [0, 1]
    assert all(process["enclave_up"] and not process["paused"] for process in said["processes"])

    pid = stack.children["sign-worker"].pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == PROCESSES
    os.kill(int(children[0]), signal.SIGKILL)
    await until("/readyz", lambda status, _: status == 503)  # it takes a second to start: many looks
    await until("/readyz", lambda status, _: status == 200)
    assert children[0] not in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    stack.children["signer-enclave"].process.terminate()
    said = await until("/readyz", lambda status, _: status == 503)
    assert set(map(tuple, said["problems"].values())) == {("no_enclave",)}
    assert (await get("/healthz"))[0] == 200


async def test_operators_pause_and_freeze(stack: LocalStack) -> None:
    """Paused: jobs stay on the queue, and are signed after. Frozen: one user's jobs are answered with `frozen`."""
    client = Client(asdict(stack.facts))
    environ = stack.facts.to_environ()

    def brakes(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, env=environ, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    async def command(*arguments: str) -> str:
        return await asyncio.to_thread(brakes, *arguments)

    for userid in ("u", "cold"):
        client.ask("generate", {"type": "generate", "job_id": userid, "userid": userid})
    await command("pause", "--reason", "drill")
    await until("/readyz", lambda _, said: list(said["problems"].values()) == [["paused"], ["paused"]])
    client.send("sign", *sign_jobs(3))
    shown = json.loads(await command("show", "--json"))
    assert (shown["paused"]["reason"], shown["frozen"]) == ("drill", {})
    assert (await get("/healthz"))[0] == 200
    assert sum(counts(client, "sign_queue_url")) == 3
    await command("freeze", "cold")
    assert [line.split()[:2] for line in (await command("show")).splitlines()[1:]] == [
        ["everybody", "paused"], ["cold", "frozen"],
    ]  # fmt: skip
    assert await command("resume") == "signing goes on\n"
    assert {reply["status"] for reply in client.replies(3)} == {"ok"}

    frozen = client.ask("sign", {"type": "sign", "job_id": "f", "userid": "cold", "message": "m"})
    assert (frozen["status"], frozen["error"]["code"], frozen["error"]["retryable"]) == ("error", "frozen", False)
    assert list(json.loads(await command("show", "--json"))["frozen"]) == ["cold"]
    await command("unfreeze", "cold")
    assert client.ask("sign", {"type": "sign", "job_id": "t", "userid": "cold", "message": "m"})["status"] == "ok"
    assert json.loads(await command("show", "--json")) == {"paused": None, "frozen": {}}
