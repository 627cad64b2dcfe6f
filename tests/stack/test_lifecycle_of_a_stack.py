"""Starting, stopping and restarting a whole stack: nothing is left behind, nothing that was kept is lost."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack.harness import Client, Up

pytestmark = pytest.mark.stack

GONE_TIMEOUT_S = 20


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_gone(pids: dict[str, int]) -> list[str]:
    """Wait until the processes have ended; return the names of those that have not."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while left := [name for name, pid in pids.items() if is_running(pid)]:
        if time.monotonic() > deadline:
            return left
        os.sched_yield()
    return []


def test_keys_and_queued_jobs_survive_a_restart(tmp_path: Path, start_up: Callable[[Path], Up]) -> None:
    """With --state: SIGTERM ends everything with code 0, and a second start goes on at the same addresses."""
    first = start_up(tmp_path)
    client = Client(first.facts)
    key = client.ask("generate", {"type": "generate", "job_id": "g", "userid": "kept"})["publickey"]
    assert first.stop() == 0
    assert wait_gone(first.facts["pids"]) == []

    second = start_up(tmp_path)
    kept = ["endpoint_url", "sign_queue_url", "kms_endpoint_url", "kms_key_arn", "generator_pcr0", "signer_pcr0"]
    assert {name: second.facts[name] for name in kept} == {name: first.facts[name] for name in kept}
    again = Client(second.facts)
    reply = again.ask("sign", {"type": "sign", "job_id": "s", "userid": "kept", "message": "m"})
    assert (reply["status"], reply["publickey"]) == ("ok", key)
    assert second.stop() == 0


def test_no_child_outlives_a_stack_that_is_killed(tmp_path: Path, start_up: Callable[[Path], Up]) -> None:
    """Not even after kill -9 of `nitro-local up`."""
    up = start_up(tmp_path)
    assert all(is_running(pid) for pid in up.facts["pids"].values())
    up.process.kill()
    up.process.wait()
    assert wait_gone(up.facts["pids"]) == []


def test_audit_lines_show_who_was_attested(client: Client) -> None:
    """Each KMS call of an enclave leaves a line with the measured image, as CloudTrail does."""
    client.ask("generate", {"type": "generate", "job_id": "audit", "userid": "audit"})
    audit = Path(client.facts["kms_ca_bundle"]).parents[2] / "logs" / "kms-audit.jsonl"
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    mine = [line for line in lines if line["requestParameters"].get("encryptionContext", {}).get("userid") == "audit"]
    assert [line["eventName"] for line in mine] == ["GenerateDataKey"]
    assert "attestationDocumentEnclaveImageDigest" in mine[0]["additionalEventData"]["recipient"]
