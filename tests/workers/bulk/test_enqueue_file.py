"""`enqueue file` as a process: every good line once, every bad one reported, whatever interrupts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.workers.bulk.fast_sqs import FastSqs
from workers.bulk.sender import WINDOW_RECORDS
from workers.cli import app

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

ROOT = Path(__file__).resolve().parents[3]
LINES = int(os.environ.get("NITRO_TEST_LINES", "2000"))
BAD = 50
QUEUES = "https://sqs.eu-central-1.amazonaws.com/111122223333"
CONFIG = f"""
region = "eu-central-1"
[sign]
enclaves = ["unix:///run/signer.sock"]
[sign.engine]
queue_url = "{QUEUES}/sign"
reply_queue_url = "{QUEUES}/reply"
"""
GENERATE = f"""
[generate]
enclaves = ["unix:///run/generator.sock"]
[generate.engine]
queue_url = "{QUEUES}/generate"
reply_queue_url = "{QUEUES}/reply"
"""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
async def sqs() -> AsyncGenerator[FastSqs, None]:
    """A server of this test's own."""
    async with FastSqs().running() as running:
        yield running


class Command:
    """The command, on one file, with one configuration."""

    def __init__(self, folder: Path, sqs: FastSqs) -> None:
        self.folder = folder
        self.config = folder / "worker.toml"
        self.config.write_text(CONFIG)
        self.environ = {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": sqs.endpoint_url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start it."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers", "enqueue", "file", *arguments, "--config", str(self.config),
            env=self.environ, cwd=self.folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *arguments: str, given: str | None = None) -> tuple[int, str, str]:
        """Run it; return exit code and what it printed."""
        process = await self.start(*arguments)
        output, error = await process.communicate(None if given is None else given.encode())
        return process.returncode or 0, output.decode(), error.decode()


@pytest.fixture
def command(tmp_path: Path, sqs: FastSqs) -> Command:
    """The command in a folder of its own."""
    made = Command(tmp_path, sqs)
    made.environ["PYTHONPATH"] = str(ROOT)
    return made


def job_line(number: int, **more: object) -> str:
    """Return a line with a sign job."""
    return json.dumps({"type": "sign", "userid": f"u{number % 100}", "message": f"payment {number}", **more})


def reported(error: str) -> list[int]:
    """Return the lines that were reported."""
    return [int(line.split()[1].rstrip(":")) for line in error.splitlines() if line.startswith("line ")]


async def test_interrupted_in_the_middle_and_resumed_without_a_double(command: Command, sqs: FastSqs) -> None:
    """Bad lines are reported by number once; each good one is sent once, over two runs."""
    bad = {LINES * number // BAD + 7 for number in range(BAD)}
    lines = [("no job" if number in bad else job_line(number)) for number in range(1, LINES + 1)]
    (command.folder / "jobs.jsonl").write_text("\n".join(lines) + "\n")
    process = await command.start("jobs.jsonl", "--json")
    interrupted_at = LINES // 2

    def interrupt(count: int) -> None:
        if count == interrupted_at:
            process.send_signal(signal.SIGINT)

    sqs.on_job = interrupt
    output, first_error = (stream.decode() for stream in await process.communicate())
    assert (process.returncode, output) == (130, "")
    assert "--resume goes on" in first_error
    sent_first = len(sqs.bodies)
    assert interrupted_at <= sent_first <= interrupted_at + WINDOW_RECORDS
    code, output, second_error = await command.run("jobs.jsonl", "--json", "--resume")
    assert code == 1
    assert json.loads(output) == {"sent": LINES - BAD, "rejected": BAD, "lines": LINES}
    assert sorted(reported(first_error) + reported(second_error)) == sorted(bad)
    assert Counter(Counter(job["message"] for job in sqs.bodies).values()) == {1: LINES - BAD}
    assert len({job["job_id"] for job in sqs.bodies}) == LINES - BAD
    assert not (command.folder / "jobs.jsonl.enqueue").exists()


async def test_killed_inside_a_window(command: Command, sqs: FastSqs) -> None:
    """After kill -9 a window is sent again at most, under the same job ids."""
    (command.folder / "jobs.jsonl").write_text("".join(f"{job_line(number)}\n" for number in range(500)))
    process = await command.start("jobs.jsonl")
    sqs.on_job = lambda count: process.kill() if count == 205 else None
    await process.communicate()
    sqs.on_job = lambda _count: None
    code, _, _ = await command.run("jobs.jsonl", "--resume")
    assert code == 0
    sent = Counter(job["job_id"] for job in sqs.bodies)
    assert len(sent) == 500
    assert sum(sent.values()) - 500 <= WINDOW_RECORDS
    assert {job["job_id"]: job["message"] for job in sqs.bodies} == {
        job["job_id"]: job["message"] for job in reversed(sqs.bodies)
    }


async def test_killed_inside_the_first_window(command: Command, sqs: FastSqs) -> None:
    """The run is known from before its first job on: it is resumed, and the jobs keep their ids."""
    (command.folder / "jobs.jsonl").write_text("".join(f"{job_line(number)}\n" for number in range(200)))
    process = await command.start("jobs.jsonl")
    sqs.on_job = lambda count: process.kill() if count == 1 else None
    await process.communicate()
    sqs.on_job = lambda _count: None
    code, _, error = await command.run("jobs.jsonl")
    assert (code, "tells of an interrupted run" in error) == (2, True)
    assert (await command.run("jobs.jsonl", "--resume"))[0] == 0
    assert len({(job["job_id"], job["message"]) for job in sqs.bodies}) == 200
    assert len({job["job_id"] for job in sqs.bodies}) == 200


async def test_a_run_that_came_to_its_end_is_not_resumed(command: Command, sqs: FastSqs) -> None:
    """To begin anew would send every job twice, and who says --resume wants none twice."""
    (command.folder / "jobs.jsonl").write_text(f"{job_line(1)}\n")
    assert (await command.run("jobs.jsonl"))[0] == 0
    code, _, error = await command.run("jobs.jsonl", "--resume")
    assert code == 2
    assert error == (
        "enqueue file: no interrupted run of jobs.jsonl: jobs.jsonl.enqueue does not exist; "
        "without --resume it begins anew\n"
    )
    assert len(sqs.bodies) == 1


async def test_one_run_of_a_file_at_a_time(command: Command, sqs: FastSqs) -> None:
    """A second one, resuming what the first is doing, would send its jobs twice."""
    (command.folder / "jobs.jsonl").write_text("".join(f"{job_line(number)}\n" for number in range(200)))
    process = await command.start("jobs.jsonl")
    started = asyncio.Event()

    def halt(_count: int) -> None:
        if not started.is_set():
            process.send_signal(signal.SIGSTOP)
            started.set()

    sqs.on_job = halt
    await started.wait()
    code, _, error = await command.run("jobs.jsonl", "--resume")
    assert (code, error) == (2, "enqueue file: jobs.jsonl: another run is sending it\n")
    process.send_signal(signal.SIGCONT)
    await process.communicate()
    assert process.returncode == 0
    assert len(sqs.bodies) == 200


async def test_rejects_are_reported_once_over_two_runs(command: Command, sqs: FastSqs) -> None:
    """What the first run has reported of a window that it never finished is reported by the second."""
    lines = [job_line(number) if number % 10 else "no job" for number in range(1, 201)]
    (command.folder / "jobs.jsonl").write_text("\n".join(lines))
    sqs.refuse = lambda job: ("InternalError", False) if job["message"] == "payment 101" else None
    assert (await command.run("jobs.jsonl", "--rejects", "bad.jsonl"))[0] == 2
    report = command.folder / "bad.jsonl"
    with report.open("a") as file:  # as of a run that was killed between the report and the note of its progress
        file.write('{"line": 90, "reason": "told, not noted"}\n{"line": 1')
    sqs.refuse = lambda _job: None
    assert (await command.run("jobs.jsonl", "--resume", "--rejects", "bad.jsonl"))[0] == 1
    assert [json.loads(line)["line"] for line in report.read_text().splitlines()] == list(range(10, 201, 10))


async def test_a_state_that_cannot_be_written(command: Command, sqs: FastSqs) -> None:
    """Found before anything is sent."""
    (command.folder / "jobs.jsonl").write_text(f"{job_line(1)}\n")
    code, _, error = await command.run("jobs.jsonl", "--state", "no-such-folder/state")
    assert (code, error) == (2, "enqueue file: no-such-folder/state.new: No such file or directory\n")
    assert sqs.bodies == []


async def test_a_queue_that_fails_in_the_middle(command: Command, sqs: FastSqs) -> None:
    """What it has taken of a window is not sent again."""
    (command.folder / "jobs.jsonl").write_text("".join(f"{job_line(number)}\n" for number in range(200)))
    sqs.refuse = lambda job: ("InternalError", False) if job["message"].endswith("3") else None
    code, output, error = await command.run("jobs.jsonl")
    assert (code, output) == (2, "")
    assert error == (
        "enqueue file: the queues do not take 8 jobs (InternalError); "
        "jobs.jsonl.enqueue knows how far it came: --resume goes on\n"
    )
    assert len(sqs.bodies) == 72
    sqs.refuse = lambda _job: None
    assert await command.run("jobs.jsonl", "--resume") == (0, "200 jobs sent, 0 of 200 lines rejected\n", "")
    assert Counter(Counter(job["message"] for job in sqs.bodies).values()) == {1: 200}


async def test_a_message_that_the_queue_refuses_is_a_rejected_line(command: Command, sqs: FastSqs) -> None:
    """The sender is to blame: trying again would not help."""
    (command.folder / "jobs.jsonl").write_text("".join(f"{job_line(number)}\n" for number in range(3)))
    sqs.refuse = lambda job: ("InvalidMessageContents", True) if job["message"] == "payment 1" else None
    code, output, error = await command.run("jobs.jsonl", "--rejects", "bad.jsonl")
    assert (code, output) == (1, "2 jobs sent, 1 of 3 lines rejected\n")
    assert "line 2" not in error
    assert (command.folder / "bad.jsonl").read_text() == '{"line": 2, "reason": "the queue refuses the message"}\n'


async def test_csv_from_standard_input(command: Command, sqs: FastSqs) -> None:
    """Quoted cells may span lines; empty ones are left out; both kinds of jobs go to their queues."""
    command.config.write_text(CONFIG + GENERATE)
    given = (
        "\ufefftype,userid,message,job_id,format\r\n"
        "generate,alice,,g-1,\r\n"
        'sign,alice,"two\nlines",s-1,der\r\n'
        "\r\n"
        "sign,alice,,,\r\n"
        "sign,no spaces,x,,\r\n"
        "sign,alice,x,,,,\r\n"
        ",bob,x,,\r\n"
    )
    code, output, error = await command.run("-", "--format", "csv", given=given)
    assert (code, output) == (1, "4 jobs sent, 2 of 9 lines rejected\n")
    assert reported(error) == [7, 8]
    assert sqs.job_ids["generate"] == ["g-1"]
    assert [(job.get("message"), job.get("format")) for job in sqs.bodies if job["type"] == "sign"] == [
        ("two\nlines", "der"),
        ("", None),
        ("x", None),
    ]


async def test_the_two_kinds_of_jobs_go_to_their_queues(command: Command, sqs: FastSqs) -> None:
    """And a kind without a queue is a reason to reject."""
    lines = [job_line(1), '{"type": "generate", "userid": "u1"}']
    (command.folder / "jobs.jsonl").write_text("\n".join(lines))
    code, _, error = await command.run("jobs.jsonl")
    assert (code, error) == (1, "line 2: there is no queue for jobs of the type generate\n")
    command.config.write_text(CONFIG + GENERATE)
    assert (await command.run("jobs.jsonl"))[0] == 0
    assert {name: len(ids) for name, ids in sqs.job_ids.items()} == {"sign": 2, "generate": 1}


async def test_another_file_is_not_resumed(command: Command, sqs: FastSqs) -> None:
    """Lines could be left out or sent twice: what was sent must still stand there."""
    path = command.folder / "jobs.jsonl"
    path.write_text("".join(f"{job_line(number)}\n" for number in range(200)))
    sqs.refuse = lambda job: ("InternalError", False) if job["message"] == "payment 100" else None
    assert (await command.run("jobs.jsonl"))[0] == 2
    assert "tells of an interrupted run" in (await command.run("jobs.jsonl"))[2]
    path.write_text(path.read_text().replace("payment 7", "payment 8"))
    code, _, error = await command.run("jobs.jsonl", "--resume")
    assert (code, "not the file of which 80 lines were enqueued" in error) == (2, True)
    (command.folder / "jobs.jsonl.enqueue").write_text("{}")
    code, _, error = await command.run("jobs.jsonl", "--resume")
    assert (code, "not a state file of enqueue" in error) == (2, True)


@pytest.mark.parametrize(
    ("name", "content", "arguments", "problem"),
    [
        ("missing", None, (), "missing: No such file or directory"),
        ("a.csv", "", (), "a.csv: no header"),
        ("a.csv", "userid,mesage\n", (), "a.csv: unknown column 'mesage'; there are type, job_id, userid, message"),
        ("a.csv", "userid,userid\n", (), "a.csv: a column stands twice in the header"),
        ("a.csv", "message\n", (), "a.csv: no column userid"),
        ("a.csv", b"\xff\xfeu\x00s\x00\r\x00\n\x00", (), "a.csv: the first line is no CSV header in UTF-8"),
        ("a.csv", b"userid,\xe9\n", (), "a.csv: the first line is no CSV header in UTF-8"),
        ("a.csv", b"userid\nu\n", ("--resume",), "no interrupted run of a.csv: a.csv.enqueue does not exist"),
        ("-", None, ("--resume",), "--resume needs a FILE, or --state"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes | None,
    arguments: Sequence[str],
    problem: str,
) -> None:
    """No traceback, exit code 2, and nothing was sent."""
    monkeypatch.chdir(tmp_path)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "local")
    (tmp_path / "worker.toml").write_text(CONFIG)
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    result = CliRunner().invoke(app, ["enqueue", "file", name, *arguments, "--config", "worker.toml"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"enqueue file: {problem}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / f"{name}.enqueue").exists()
