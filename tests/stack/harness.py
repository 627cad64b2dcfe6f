"""A local stack as a child process, and a plain boto3 client of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import boto3

from protocol.jobs import REPLY

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
EMPTY_POLLS = 45
"""Of two seconds each, before a reply counts as missing."""


def clean_environ() -> dict[str, str]:
    """Return an environment without anything that tells AWS clients where to go."""
    kept = ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG")  # the last is how coverage reaches child processes
    return {name: os.environ[name] for name in kept if name in os.environ}


class Up:
    """A running `nitro-local up`."""

    def __init__(self, state: Path) -> None:
        ready = state / "ready.json"
        state.mkdir(exist_ok=True)
        ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local.cli", "up", "--state", str(state), "--ready-file", str(ready)],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environ(),
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"nitro-local up ended with code {self.process.wait()}"
        self.facts: dict[str, Any] = json.loads(line)
        assert json.loads(ready.read_text()) == self.facts

    def stop(self) -> int:
        """Stop it as an operator would; return the exit code."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_TIMEOUT_S)
        self.process.stdout.close()
        return code


class Client:
    """Plain boto3, as a user has it."""

    empty_polls = EMPTY_POLLS

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        options: dict[str, Any] = {
            "region_name": facts["region"],
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }
        self.sqs = boto3.client("sqs", endpoint_url=facts["endpoint_url"], **options)
        self.dynamodb = boto3.client("dynamodb", endpoint_url=facts["endpoint_url"], **options)
        self.kms = boto3.client("kms", endpoint_url=facts["kms_endpoint_url"], verify=facts["kms_ca_bundle"], **options)

    def send(self, kind: str, *bodies: str | dict[str, Any]) -> list[str]:
        """Put bodies on the queue of a kind; return the message ids."""
        ids: list[str] = []
        for start in range(0, len(bodies), 10):
            entries = [
                {"Id": str(place), "MessageBody": body if isinstance(body, str) else json.dumps(body)}
                for place, body in enumerate(bodies[start : start + 10])
            ]
            answer = self.sqs.send_message_batch(QueueUrl=self.facts[f"{kind}_queue_url"], Entries=entries)
            assert not answer.get("Failed")
            by_place = {entry["Id"]: entry["MessageId"] for entry in answer["Successful"]}
            ids += [by_place[str(place)] for place in range(len(entries))]
        return ids

    def replies(
        self, count: int, *, job_id: str | None = None, among: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        """Take this many replies off the reply queue: of one job, or of so many jobs, among those that are named.

        Each is in the published schema. What else comes is dropped: a queue delivers at least once, and a busy machine
        more often.
        """
        found: list[dict[str, Any]] = []
        url = self.facts["reply_queue_url"]
        empty = 0
        while empty < self.empty_polls:
            answer = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=2)
            empty += "Messages" not in answer
            for message in answer.get("Messages", []):
                REPLY.validate_json(message["Body"])
                reply = json.loads(message["Body"])
                is_new = all(reply["job_id"] != other["job_id"] for other in found)
                if reply["job_id"] == job_id if job_id else is_new and (among is None or reply["job_id"] in among):
                    found.append(reply)
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            if len(found) >= count:
                return found
        raise AssertionError(f"{len(found)} of {count} replies: {found}")

    def wait_for_dead_letters(self, kind: str, count: int) -> None:
        """Wait until a dead-letter queue has so many: a job's error reply comes before its dead letter."""
        name, url = "ApproximateNumberOfMessages", self.facts[f"{kind}_dead_letter_queue_url"]
        for _ in range(EMPTY_POLLS * 10):
            answer = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])
            if int(answer["Attributes"][name]) >= count:
                return
            time.sleep(0.2)
        raise AssertionError(f"not {count} dead letters")

    def dead_letter(self, kind: str, job_id: str) -> dict[str, str]:
        """Take the dead letter of a job off its queue; return its attributes. Those of other tests are left."""
        url = self.facts[f"{kind}_dead_letter_queue_url"]
        for _ in range(self.empty_polls):
            answer = self.sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=2, MessageAttributeNames=["All"]
            )
            for message in answer.get("Messages", []):
                attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
                if job_id in attributes.values():
                    self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    return attributes
        raise AssertionError(f"no dead letter of job {job_id}")

    def ask(self, kind: str, body: str | dict[str, Any]) -> dict[str, Any]:
        """Send one body and return its reply."""
        [message_id] = self.send(kind, body)
        job_id = body.get("job_id", message_id) if isinstance(body, dict) else message_id
        return self.replies(1, job_id=job_id)[0]
