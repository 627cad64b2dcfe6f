"""The command `nitro-signer`: mistakes are one line, and a worker process does a job from queue to reply."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from aiobotocore.session import get_session
from click import unstyle
from typer.testing import CliRunner

from config.fields import FIELDS
from config.worker import load_worker_settings
from local.ministack import run_ministack
from local.resources import QueueUrls, make_queues, make_tables
from protocol.address import UnixAddress
from protocol.clock import system_clock
from protocol.jobs import GenerateReply
from protocol.messages import Role
from protocol.version import VERSION
from tests.workers.parent.scripted import KMS_KEY_ARN, LONG_S, BirthOffice, ScriptedProcess, serving, until
from workers.cli import app
from workers.cli.reply_lines import read_reply
from workers.service.program import Surroundings, run_worker
from workers.service.sdnotify import Notifier

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[3]
MINISTACK_PYTHON = ROOT / ".venv-ministack" / "bin" / "python"
QUEUES = "https://sqs.eu-central-1.amazonaws.com/111122223333"
CONFIG = f"""
region = "eu-central-1"
[sign]
enclaves = ["unix:///run/signer.sock"]
[sign.engine]
queue_url = "{QUEUES}/sign"
reply_queue_url = "{QUEUES}/reply"
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A good file for a machine that only signs."""
    path = tmp_path / "worker.toml"
    path.write_text(CONFIG)
    return str(path)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command; return exit code, standard output and standard error."""
    result = CliRunner().invoke(app, list(arguments), prog_name="nitro-signer")
    return result.exit_code, result.stdout, result.stderr


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of every command, and whether it is a command or a group of some."""
    node = typer.main.get_command(app) if group is None else group
    children: dict[str, Any] = getattr(node, "commands", {})
    yield path, "group" if children else "command"
    for name, child in children.items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize(("command", "kind"), list(commands()))
def test_every_command_has_help_with_an_example(command: tuple[str, ...], kind: str) -> None:
    """On every level; what is no group shows how it is used, on a line that can be copied, and its exit codes."""
    code, output, _ = run(*command, "--help")
    assert code == 0
    assert "Usage: nitro-signer" in output
    if kind == "command":
        example = re.search(r"^  Examples?:\n    \$ (.*)$", output, re.MULTILINE)
        assert example
        assert " ".join(("nitro-signer", *command)) in example[1]
        assert re.search(r"\b[Ee]xit", output)


async def test_help_loads_no_sdk() -> None:
    """Asking what there is must not take the time of loading an AWS SDK."""
    code = "import sys, workers.cli; sys.exit('aiobotocore' in sys.modules or 'botocore.session' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT)
    assert await process.wait() == 0


def test_version() -> None:
    """As `hello` says it."""
    assert run("--version") == (0, f"{VERSION}\n", "")


def test_config_check(config: str) -> None:
    """A good file is ok; a wrong one is one line that names the key, and exit code 2."""
    assert run("config", "check", config) == (0, f"ok: {config}: sign in eu-central-1\n", "")
    Path(config).write_text(CONFIG + "slot = 3\n")
    assert run("config", "check", config) == (2, "", f"config: {config}: sign.engine.slot: unknown field\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["worker", "generate"], "worker: {config}: generate: table is missing"),
        (["enqueue", "generate", "u1"], "enqueue: {config}: generate: table is missing"),
        (["enqueue", "sign", "no spaces", "x"], "enqueue: sign.userid: String should match"),
        (["enqueue", "sign", "u1", "xyz", "--encoding", "hex"], "enqueue: sign: message: not hexadecimal"),
        (["enqueue", "sign", "u1", "x", "--digest", "none"], "with digest none the message is the 32-byte digest"),
        (["enqueue", "sign", "u1", "x", "--scheme", "schnorr", "--format", "der"], "schnorr has the compact format"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(config: str, command: Sequence[str], message: str) -> None:
    """What a user got wrong is said without a traceback, before anything is sent."""
    code, output, error = run(*command, "--config", config)
    assert (code, output) == (2, "")
    assert message.format(config=config) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [["enqueue", "sign", "u1", "x"], ["replies", "--timeout", "0"]])
def test_aws_that_refuses_is_one_line(config: str, command: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at the endpoint: one line, exit code 2."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    code, output, error = run(*command, "--config", config)
    assert (code, output) == (2, "")
    assert "Could not connect" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["enqueue", "sign", "u1", "x"], ["enqueue", "file", "jobs.jsonl"], ["replies"], ["status"], ["dlq", "list"],
        ["doctor"], ["key", "prove", "u1"], ["brakes", "show"], ["worker", "sign"],
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("AWS_ENDPOINT_URL", "nonsense", "Invalid endpoint: nonsense"),
        ("AWS_PROFILE", "nobody", "The config profile (nobody) could not be found"),
    ],
)
def test_an_sdk_that_is_set_up_wrongly_is_one_line(
    config: str, command: Sequence[str], variable: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the SDK does not like about a variable is said as it is, without a traceback."""
    folder = Path(config).parent
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    for name, text in {**CREDENTIALS, variable: value}.items():
        monkeypatch.setenv(name, text)
    (folder / "jobs.jsonl").write_text('{"type": "sign", "userid": "u1", "message": "x"}\n')
    Path(config).write_text(f'{CONFIG}\n[brakes]\ntable = "Brakes"\n')
    code, output, error = run(*command, "--config", config)
    assert (code, output) == (2, "")
    assert error.endswith(f": {problem}\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("\x1b[2J", '{"not_a_reply": "\\u001b[2J"}'),
        ('{"type": "sign"}', '{"not_a_reply": "{\\"type\\": \\"sign\\"}"}'),
        (
            '{"type":"sign","job_id":"s\\u001b","status":"ok","userid":"u1","signature":"00","publickey":"01","verified":true}',
            "s\\x1b sign u1 verified 00",
        ),
        (
            '{"type":"sign","job_id":"s","status":"error","userid":"u","error":{"code":"frozen","message":"x","retryable":false}}',
            "s sign u frozen: x",
        ),
    ],
)
def test_a_reply_cannot_write_to_the_terminal(body: str, line: str) -> None:
    """Whoever may send to the reply queue controls the body, and not the terminal of who reads it."""
    assert unstyle(" ".join(read_reply(body, as_json=False).text.split())) == line


# A worker process, from queue to reply


class Stack:
    """MiniStack with queues and tables, two scripted enclaves, and a configuration for both workers."""

    def __init__(self, folder: Path, queues: QueueUrls, endpoint_url: str) -> None:
        self.queues = queues
        self.generator = UnixAddress(str(folder / "g"))
        self.signer = UnixAddress(str(folder / "s"))
        self.config = folder / "worker.toml"
        self.environ = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": endpoint_url}
        roles = (("generate", self.generator, queues.generate), ("sign", self.signer, queues.sign))
        tables = [
            f'[{name}]\nenclaves = ["{enclave}"]\n[{name}.engine]\nqueue_url = "{queue}"\n'
            f'reply_queue_url = "{queues.reply}"\nwait_time_s = 1\ndrain_deadline_s = 10\n'
            for name, enclave, queue in roles
        ]
        self.config.write_text(f'region = "us-east-1"\nkms_key_arn = "{KMS_KEY_ARN}"\n' + "".join(tables))

    def put_into_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let AWS clients of this process find the stack."""
        for name in (*CREDENTIALS, "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(name, self.environ[name])

    @contextlib.asynccontextmanager
    async def sqs(self) -> AsyncGenerator[Any, None]:
        """Open a plain client."""
        session = get_session()
        session.set_credentials("local", "local")
        url = self.environ["AWS_ENDPOINT_URL"]
        async with session.create_client("sqs", region_name="us-east-1", endpoint_url=url) as client:
            yield client

    async def command(self, *arguments: str) -> str:
        """Run a command and return what it prints; it must succeed."""
        process = await self.start(*arguments)
        output, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        return output.decode()

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a command."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers", *arguments, "--config", str(self.config),
            env=self.environ, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncGenerator[Stack, None]:
    """A stack; its enclaves and workers are started by the test."""
    if not MINISTACK_PYTHON.exists():
        pytest.skip("no .venv-ministack: run `make setup`")
    session = get_session()
    session.set_credentials("local", "local")
    async with run_ministack(MINISTACK_PYTHON, tmp_path / "state", log=tmp_path / "log") as ministack:
        url = ministack.endpoint_url
        async with (
            session.create_client("sqs", region_name="us-east-1", endpoint_url=url) as sqs,
            session.create_client("dynamodb", region_name="us-east-1", endpoint_url=url) as db,
        ):
            await make_tables(db)
            queues = await make_queues(sqs)
        yield Stack(tmp_path, queues, url)


async def stopped(worker: asyncio.subprocess.Process, number: int = signal.SIGTERM) -> list[dict[str, Any]]:
    """Send a signal, wait for the end, and return the log lines; the exit code must be 0."""
    worker.send_signal(number)
    async with asyncio.timeout(LONG_S):
        output, error = await worker.communicate()
    assert (worker.returncode, error) == (0, b"")
    return [json.loads(line) for line in output.splitlines()]


async def test_a_worker_process_does_jobs_from_queue_to_reply(stack: Stack) -> None:
    """Enqueue, work, reply, drain: with the commands that people use, and logs of listed fields only."""
    generator = ScriptedProcess(role=Role.GENERATOR, office=BirthOffice())
    signer = ScriptedProcess()
    async with serving(stack.generator, generator), serving(stack.signer, signer):
        workers = [await stack.start("worker", role) for role in ("generate", "sign")]
        sent = json.loads(await stack.command("enqueue", "generate", "u1", "--job-id", "g-1", "--json"))
        assert (sent["job_id"], sent["queue_url"]) == ("g-1", stack.queues.generate)
        (line,) = (await stack.command("replies", "--count", "1", "--json")).splitlines()
        reply = json.loads(line)
        assert (reply["job_id"], reply["status"], reply["created"]) == ("g-1", "ok", True)
        sent = json.loads(await stack.command("enqueue", "sign", "u1", "Hello World", "--format", "der", "--json"))
        (line,) = (await stack.command("replies", "--count", "1", "--json")).splitlines()
        signed = json.loads(line)
        assert (signed["job_id"], signed["verified"]) == (sent["message_id"], True)
        assert signed["publickey"] == reply["publickey"]
        lines = [await stopped(worker) for worker in workers]
    logs = [[line for line in part if "_aws" not in line] for part in lines]
    assert [log[-1]["event"] for log in logs] == ["worker_ended", "worker_ended"]
    assert [log[0]["role"] for log in logs] == ["generate-worker", "sign-worker"]
    assert [entry["digest"] for entry in logs[1] if entry["event"] == "signature_made"] == [
        "a591a6d40bf420404a011733cfb7b190d62c65bf0bcda32b57b277d9ad9f146e"
    ]
    for entry in (*logs[0], *logs[1]):
        assert entry.keys() <= FIELDS.keys()
        assert "dropped_fields" not in entry
    (generate,), (sign,) = ([line for line in part if "_aws" in line] for part in lines)
    for metrics, role in ((generate, "generate"), (sign, "sign")):
        assert (metrics["Role"], metrics["Answered"], metrics["Failed"], metrics["Settled_deleted"]) == (role, 1, 0, 1)
        assert (metrics["InFlight"], metrics["KmsCalls"], metrics["KeyCacheEntries"]) == (0, 0, 1)
        for stage in ("WorkTime", "EnclaveTime", "ReplyTime", "DeleteTime", "JobTime"):
            assert metrics[stage][0] >= 0, stage
    assert (sign["RecordCacheHits"], sign["RecordCacheMisses"]) == (0, 1)


async def test_a_worker_tells_systemd_how_it_goes(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ready once an enclave is, stopping when a drain begins; and it says whether every message was settled."""
    stack.put_into_environment(monkeypatch)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.settimeout(LONG_S)
        surroundings = Surroundings(
            clock=system_clock, uniform=lambda: 0.1, notifier=Notifier(socket_path=str(tmp_path / "n"))
        )
        async with asyncio.TaskGroup() as group:
            working = group.create_task(run_worker("sign", load_worker_settings(stack.config), surroundings))
            assert await asyncio.to_thread(systemd.recv, 99) == b"STATUS=waiting for an enclave"
            async with serving(stack.signer, ScriptedProcess()):
                assert await asyncio.to_thread(systemd.recv, 99) == b"STATUS=working"
                assert await asyncio.to_thread(systemd.recv, 99) == b"READY=1"
                os.kill(os.getpid(), signal.SIGTERM)
                assert await asyncio.to_thread(systemd.recv, 99) == b"STOPPING=1"
        assert working.result()


async def test_replies_are_taken_once_and_all_kinds_are_shown(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one receive brings is taken, printed and deleted; what is no reply is shown as that."""
    stack.put_into_environment(monkeypatch)
    made = GenerateReply(
        job_id="g-1", userid="u1", publickey="00", publickey_compressed="00", ethereum_address="0x",
        created=True, birth_certificate="00",
    )  # fmt: skip
    async with stack.sqs() as sqs:
        for body in (made.model_dump_json(), *(["{}"] * 11)):
            await sqs.send_message(QueueUrl=stack.queues.reply, MessageBody=body)
    arguments = ("replies", "--config", str(stack.config), "--timeout", "0.5")
    code, output, _ = await asyncio.to_thread(run, *arguments)
    assert code == 1  # a message that is no reply is nothing that went well
    assert max(output.splitlines()) == '{"not_a_reply": "{}"}'
    assert "g-1 generate u1 new key 00 0x" in " ".join(output.split())
    assert len(output.splitlines()) == 12
    assert await asyncio.to_thread(run, *arguments, "--count", "1") == (1, "", "replies: 0 of 1 came\n")


async def test_a_job_for_a_fifo_queue_keeps_the_order_of_its_user(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a FIFO queue the user id is the message group, and a job id drops repetitions."""
    stack.put_into_environment(monkeypatch)
    async with stack.sqs() as sqs:
        made = await sqs.create_queue(QueueName="sign.fifo", Attributes={"FifoQueue": "true"})
        stack.config.write_text(stack.config.read_text().replace(stack.queues.sign, made["QueueUrl"]))
        for _ in range(2):
            code, _, _ = await asyncio.to_thread(
                run, "enqueue", "sign", "u1", "x", "--job-id", "s-1", "--config", str(stack.config)
            )
            assert code == 0
        answer = await sqs.receive_message(
            QueueUrl=made["QueueUrl"], MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"]
        )
    (message,) = answer["Messages"]
    assert message["Attributes"]["MessageGroupId"] == "u1"
    assert json.loads(message["Body"])["job_id"] == "s-1"


async def test_a_worker_without_an_enclave_waits_and_drains(stack: Stack) -> None:
    """Jobs stay on the queue while no enclave is up, and the worker still ends in order."""
    await stack.command("enqueue", "sign", "u1", "Hello World")
    worker = await stack.start("worker", "sign")
    assert worker.stdout is not None
    async with asyncio.timeout(LONG_S):
        while b"enclave_unreachable" not in await worker.stdout.readline():
            pass
    logs = await stopped(worker)
    assert not [line for line in logs if line.get("event") == "job_failed"]


async def test_a_second_signal_stops(stack: Stack) -> None:
    """A job that hangs in the enclave is released at the second signal, and the worker ends before its deadline."""
    process = ScriptedProcess(role=Role.GENERATOR, hold=asyncio.Event())
    async with serving(stack.generator, process):
        worker = await stack.start("worker", "generate")
        await stack.command("enqueue", "generate", "u1")
        await until(lambda: process.batches)
        worker.send_signal(signal.SIGTERM)
        assert worker.stdout is not None
        async with asyncio.timeout(LONG_S):
            while b"drain_started" not in await worker.stdout.readline():
                pass
        await stopped(worker, signal.SIGINT)


async def test_replies_that_do_not_come_are_exit_code_1(stack: Stack) -> None:
    """A script can tell whether all replies came."""
    process = await stack.start("replies", "--count", "1", "--timeout", "0")
    _, error = await process.communicate()
    assert (process.returncode, error) == (1, b"replies: 0 of 1 came\n")


async def ended(output: int, *command: str) -> tuple[int | None, str]:
    """Run a command that writes to a file descriptor; return its exit code and what it says on standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers", *command, cwd=ROOT, stdout=output, stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    return process.returncode, error.decode()


async def test_an_output_that_takes_no_more(config: str) -> None:
    """Whether much or little is printed: a full disk is one line, and a reader that has gone is none."""
    commands = (("schema", "job"), ("config", "check", config))
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230, PTH123 - a device
        for command in commands:
            expected = (2, "nitro-signer: standard output: No space left on device\n")
            assert await ended(full.fileno(), *command) == expected
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for command in commands:
            assert await ended(writer, *command) == (1, "")
    finally:
        os.close(writer)


async def test_a_health_port_that_is_taken_is_named(config: str) -> None:
    """The worker ends with code 1, to be started again: who has the port may give it back."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        environ = {**os.environ, **CREDENTIALS, "NITRO_SIGNER_SIGN__HEALTH_PORT": str(port)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers", "worker", "sign", "--config", config,
            env=environ, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, error = await process.communicate()
    assert (process.returncode, error) == (1, b"")
    [line] = [json.loads(text) for text in output.splitlines()]
    assert (line["event"], line["address"]) == ("health_port_taken", f"127.0.0.1:{port}")


async def test_a_worker_that_cannot_work_is_exit_code_2(stack: Stack) -> None:
    """A bad configuration ends the process before it opens anything."""
    stack.config.write_text(stack.config.read_text() + "\n[unknown]\n")
    worker = await stack.start("worker", "sign")
    output, error = await worker.communicate()
    assert (worker.returncode, output) == (2, b"")
    assert error.decode() == f"worker: {stack.config}: unknown: unknown field\n"
    with contextlib.suppress(ProcessLookupError):
        worker.kill()
