"""The commands as people and scripts use them, against a whole local stack."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from coincurve import PublicKey
from typer.testing import CliRunner

from local.stack_facts import StackFacts
from protocol.messages import Scheme, SignatureFormat
from workers.cli import app
from workers.verify import verify_signature

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.harness import Client

pytestmark = pytest.mark.stack


class Shell:
    """Runs commands with the environment that `nitro-local env` gives."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = environ

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, standard output, standard error."""
        done = CliRunner().invoke(app, arguments, prog_name="nitro-signer", env=self.environ)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    def good(self, *arguments: str) -> str:
        """Return what a command prints that must succeed."""
        code, output, error = self.run(*arguments)
        assert code == 0, error
        return output


@pytest.fixture
def shell(client: Client) -> Shell:
    """Commands for the shared stack."""
    return Shell(StackFacts(**client.facts).to_environ())


def test_generate_and_sign_wait_for_verified_answers(shell: Shell) -> None:
    """The key as `generate` prints it is what `sign` verifies with."""
    key = json.loads(shell.good("generate", "cli-1", "--json"))
    assert key["userid"] == "cli-1"
    assert key["born_at"].startswith("20")
    for_people = shell.good("generate", "cli-1")
    assert for_people.startswith("VERIFIED: ")
    assert key["publickey"] in for_people
    assert key["ethereum_address"] in for_people
    signed = json.loads(shell.good("sign", "cli-1", "Hello World", "--public-key", key["publickey"], "--json"))
    verify_signature(
        bytes.fromhex(signed["signature"]), bytes.fromhex(signed["digest"]), bytes.fromhex(key["publickey"]),
        Scheme.ECDSA, SignatureFormat.COMPACT,
    )  # fmt: skip
    assert shell.good("sign", "cli-1", "Hello World", "--generate") == f"{signed['signature']}\n"
    assert shell.good("sign", "cli-1", "SGVsbG8gV29ybGQ=", "--encoding", "base64", "--generate") == (
        f"{signed['signature']}\n"
    )


def test_a_signature_by_another_key_is_refused(shell: Shell) -> None:
    """Exit code 1, one line, and no signature printed."""
    shell.good("generate", "cli-2")
    other = PublicKey.from_secret(b"\x07" * 32).format(compressed=False)[1:].hex()
    code, output, error = shell.run("sign", "cli-2", "m", "--public-key", other)
    assert (code, output) == (1, "")
    assert error.startswith("sign: signature_refused: the signature is not by the trusted key")
    code, output, error = shell.run("sign", "cli-2", "m", "--public-key", other, "--generate")
    assert (code, output) == (1, "")
    assert error.startswith("generate: " if "generate: " in error else "sign: birth_refused: the key is well certified")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["sign", "nobody", "m"], 2, "sign: bad_request: no key is trusted for nobody yet"),
        (["sign", "u", "m", "--public-key", "00"], 2, "--public-key: pinned key of u: x || y, 64 bytes, not 1"),
        (["sign", "u", "xyz", "--encoding", "hex"], 2, "not hex"),
        (["sign", "u", "m", "--public-key", "xyz"], 2, "not hexadecimal digits in pairs"),
        (["generate", "no spaces"], 2, "generate: bad_request: userid: "),
        (["generate", "u", "--client", "missing.toml"], 2, "generate: missing.toml: No such file"),
        (["generate", "u", "--deadline", "0.001"], 2, "generate: deadline_exceeded: no reply within 0.001 s"),
        (["dlq", "show", "no-such-job"], 1, "dlq: no letter of the job no-such-job"),
        (["dlq", "redrive"], 2, "dlq: give job ids, or --all"),
        (["dlq", "redrive", "no-such-job"], 1, "dlq: no letter of the job no-such-job"),
    ],
)
def test_mistakes_are_told_without_a_traceback(shell: Shell, arguments: list[str], code: int, problem: str) -> None:
    """What was wrong, and an exit code that tells a refusal from a misuse."""
    found, output, error = shell.run(*arguments)
    assert (found, output) == (code, "")
    assert problem in error
    assert "Traceback" not in error


def test_replies_by_job_id_leave_the_others(shell: Shell, client: Client) -> None:
    """Taken are those that were asked for; exit code 1 tells that a job has failed."""
    shell.good("enqueue", "generate", "cli-3", "--job-id", "cli-3-g")
    shell.good("replies", "--job-id", "cli-3-g")
    for job_id in ("cli-3-a", "cli-3-b"):
        assert shell.good("enqueue", "sign", "cli-3", "m", "--job-id", job_id) == f"{job_id}  on nitro-signer-sign\n"
    shell.good("enqueue", "sign", "cli-nobody", "m", "--job-id", "cli-3-c")
    reply = json.loads(shell.good("replies", "--job-id", "cli-3-b", "--json"))
    assert (reply["job_id"], reply["status"]) == ("cli-3-b", "ok")
    code, output, _ = shell.run("replies", "--job-id", "cli-3-c", "--job-id", "cli-3-a", "--json")
    assert code == 1
    replies = {reply["job_id"]: reply for reply in map(json.loads, output.splitlines())}
    assert {job_id: reply["status"] for job_id, reply in replies.items()} == {"cli-3-a": "ok", "cli-3-c": "error"}
    code, _, error = shell.run("replies", "--job-id", "cli-3-a", "--timeout", "0.1")
    assert (code, error) == (1, "replies: 0 of 1 came\n")
    client.sqs.purge_queue(QueueUrl=client.facts["sign_dead_letter_queue_url"])


def test_a_file_of_jobs_and_its_replies(shell: Shell, tmp_path: Path) -> None:
    """From CSV to replies, with plain commands."""
    shell.good("generate", "cli-4")
    path = tmp_path / "jobs.csv"
    path.write_text("userid,message\n" + "".join(f"cli-4,payment {number}\n" for number in range(25)))
    assert shell.good("enqueue", "file", str(path)) == "25 jobs sent, 0 of 26 lines rejected\n"
    replies = [json.loads(line) for line in shell.good("replies", "--count", "25", "--json").splitlines()]
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len({reply["signature"] for reply in replies}) == 25


def test_dead_letters_are_seen_and_sent_back(shell: Shell, client: Client) -> None:
    """A job that failed for a reason that is gone meanwhile: listed, shown, sent back, done."""
    queue = client.facts["sign_dead_letter_queue_url"]
    client.sqs.purge_queue(QueueUrl=queue)
    for job_id in ("dead-1", "dead-2"):
        client.send("sign", {"type": "sign", "job_id": job_id, "userid": "cli-late", "message": "m"})
    [message_id] = client.send("sign", {"type": "sign", "userid": "cli-late", "message": "without an id"})
    jobs = {"dead-1", "dead-2", message_id}
    assert [reply["error"]["code"] for reply in client.replies(3, among=jobs)] == ["unknown_user"] * 3
    client.wait_for_dead_letters("sign", 3)
    listed = [json.loads(line) for line in shell.good("dlq", "list", "--json", "--role", "sign").splitlines()]
    assert {letter["job_id"] for letter in listed} == {"dead-1", "dead-2", message_id}
    assert {(letter["error_code"], letter["type"], letter["userid"]) for letter in listed} == {
        ("unknown_user", "sign", "cli-late")
    }
    table = shell.good("dlq", "list", "--role", "sign").splitlines()
    assert table[0].split() == ["JOB", "ID", "TYPE", "USER", "ID", "ERROR", "TRIES", "SINCE"]
    assert len(table) == 4
    shown = json.loads(shell.good("dlq", "show", "dead-1", "--json", "--role", "sign"))
    assert json.loads(shown["body"])["message"] == "m"
    assert "unknown_user" in shell.good("dlq", "show", "dead-1", "--role", "sign")
    code, output, _ = shell.run("status", "--json")
    assert (code, json.loads(output)["needs_attention"]) == (1, True)
    shell.good("generate", "cli-late")
    assert shell.good("dlq", "redrive", "dead-1", "--role", "sign") == "dead-1  sent\n"
    [reply] = client.replies(1, job_id="dead-1")
    assert reply["status"] == "ok"
    sent = [json.loads(line) for line in shell.good("dlq", "redrive", "--all", "--json", "--role", "sign").splitlines()]
    assert {letter["job_id"] for letter in sent} == {"dead-2", message_id}
    replies = client.replies(2, among=jobs - {"dead-1"})
    assert {reply["job_id"]: reply["status"] for reply in replies} == {"dead-2": "ok", message_id: "ok"}
    assert shell.good("dlq", "list", "--role", "sign") == "no dead letters\n"


def test_status_shows_queues_and_enclaves(shell: Shell, client: Client) -> None:
    """As tables and as JSON; exit code 0 when all is well."""
    for kind in ("generate", "sign"):
        client.sqs.purge_queue(QueueUrl=client.facts[f"{kind}_dead_letter_queue_url"])
    told = json.loads(shell.good("status", "--json"))
    assert {row["queue"] for row in told["queues"]} == {
        f"nitro-signer-{name}" for name in ("generate", "sign", "reply", "generate-dlq", "sign-dlq")
    }
    assert {(row["role"], row["ready"]) for row in told["workers"]} == {("generate", True), ("sign", True)}
    assert {(row["role"], row["ready"]) for row in told["enclaves"]} == {("generator", True), ("signer", True)}
    lines = shell.good("status").splitlines()
    assert lines[0].split() == ["QUEUE", "WAITING", "IN", "FLIGHT", "DELAYED", "OLDEST"]
    assert "signer" in lines[-1]
    less = json.loads(shell.good("status", "--no-enclaves", "--no-workers", "--json"))
    assert (less["workers"], less["enclaves"]) == ([], [])


def test_output_has_no_colours_where_nobody_sees_them(shell: Shell) -> None:
    """Colours are for terminals."""
    shell.good("generate", "cli-5")
    shell.good("enqueue", "sign", "cli-5", "m")
    assert "\x1b" not in shell.good("replies", "--count", "1")
