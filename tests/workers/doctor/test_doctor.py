"""The checks of `nitro-signer doctor`, one by one, on made-up answers."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from config.engine import EngineSettings
from config.keypolicy import AllowedImages, Policy, PolicyKind, make_key_policy, parse_policy
from config.worker import StoreSettings
from protocol.address import parse_address
from protocol.messages import EnclaveFacts, HelloResult, Limits, NotReadyReason, Role, StatusResult
from workers.doctor.enclaves import _judge_identity, _judge_image, _judge_state, check_enclave
from workers.doctor.finding import Finding, Grade, worst
from workers.doctor.machine import check_allocator, check_nitro_cli, check_proxy
from workers.doctor.queues import check_queues, check_tables
from workers.proxy.settings import parse_settings

URL = "https://sqs.eu-central-1.amazonaws.com/111122223333/"
ENGINE = EngineSettings(queue_url=f"{URL}sign", reply_queue_url=f"{URL}reply", dead_letter_queue_url=f"{URL}sign-dlq")
NOW_S = 1_790_000_000.0
DATE = "Mon, 21 Sep 2026 14:13:20 GMT"
ACCOUNT = "arn:aws:iam::111122223333:role/"
KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"
GOOD_QUEUE = {
    "SqsManagedSseEnabled": "true",
    "MessageRetentionPeriod": "345600",
    "ApproximateNumberOfMessages": "0",
    "VisibilityTimeout": "60",
    "RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:111122223333:sign-dlq", "maxReceiveCount": 100}',
}


class Sqs:
    """Answers GetQueueAttributes; a queue of None does not exist."""

    def __init__(self, date: str | None = DATE, **queues: dict[str, str] | Exception) -> None:
        self._queues = queues
        self._date = date

    async def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:  # noqa: N803 - boto
        """Answer as SQS."""
        assert AttributeNames == ["All"]
        found = self._queues.get(QueueUrl.rsplit("/", 1)[-1].replace("-", "_"), GOOD_QUEUE)
        if isinstance(found, Exception):
            raise found
        headers = {} if self._date is None else {"date": self._date}
        return {"Attributes": found, "ResponseMetadata": {"HTTPHeaders": headers}}


def client_error(code: str) -> ClientError:
    """Return what the SDK raises."""
    return ClientError({"Error": {"Code": code}}, "GetQueueAttributes")


def looked_at(sqs: Sqs, engine: EngineSettings = ENGINE, now_s: float = NOW_S) -> dict[str, Finding]:
    """Run the checks of queues; a check with several findings keeps the worst."""
    found = asyncio.run(check_queues(cast("Any", sqs), "sign", engine, lambda: now_s))
    return {finding.check: finding for finding in sorted(found, key=lambda finding: finding.grade)}


def test_good_queues_are_ok() -> None:
    """Queues as the template makes them are all right."""
    found = looked_at(Sqs())
    assert worst(found.values()) is Grade.OK
    assert set(found) == {
        "sign queue",
        "sign queue redrive",
        "sign queue visibility",
        "sign reply queue",
        "sign dead-letter queue",
        "clock",
    }


QUEUE_FAULTS: list[tuple[Sqs, str, Grade, str]] = [
    (Sqs(sign=client_error("AccessDenied")), "sign queue", Grade.FAIL, "sqs:GetQueueAttributes"),
    (Sqs(sign=client_error("QueueDoesNotExist")), "sign queue", Grade.FAIL, "stack's outputs"),
    (Sqs(reply=EndpointConnectionError(endpoint_url="x")), "sign reply queue", Grade.FAIL, "network"),
    (Sqs(sign=GOOD_QUEUE | {"SqsManagedSseEnabled": "false"}), "sign queue", Grade.WARN, "SqsManagedSseEnabled"),
    (Sqs(sign=GOOD_QUEUE | {"MessageRetentionPeriod": "60"}), "sign queue", Grade.WARN, "Retention"),
    (Sqs(sign_dlq=GOOD_QUEUE | {"ApproximateNumberOfMessages": "3"}), "sign dead-letter queue", Grade.WARN, "Redrive"),
    (Sqs(sign=GOOD_QUEUE | {"RedrivePolicy": ""}), "sign queue redrive", Grade.FAIL, "RedrivePolicy"),
    (Sqs(sign=GOOD_QUEUE | {"RedrivePolicy": "[]"}), "sign queue redrive", Grade.FAIL, "RedrivePolicy"),
    (Sqs(sign=GOOD_QUEUE | {"RedrivePolicy": '{"maxReceiveCount": 8}'}), "sign queue redrive", Grade.FAIL, "raise it"),
    (Sqs(sign=GOOD_QUEUE | {"RedrivePolicy": '{"maxReceiveCount": 9}'}), "sign queue redrive", Grade.WARN, "both"),
    (Sqs(date=None), "clock", Grade.WARN, "chronyc"),
    (Sqs(date="Mon, 21 Sep 2026 14:15:20 GMT"), "clock", Grade.FAIL, "chronyc"),
]


@pytest.mark.parametrize(("sqs", "check", "grade", "fix"), QUEUE_FAULTS)
def test_faults_of_queues(sqs: Sqs, check: str, grade: Grade, fix: str) -> None:
    """Each fault has its line, with what to do."""
    found = looked_at(sqs)[check]
    assert found.grade is grade
    assert fix in found.fix


def test_no_dead_letter_queue_and_another_visibility() -> None:
    """Settings that work and are not advised get a warning; a visibility that the worker overrides gets none."""
    engine = EngineSettings(queue_url=f"{URL}sign", reply_queue_url=f"{URL}reply", visibility_timeout_s=90)
    found = looked_at(Sqs(), engine)
    assert found["sign dead-letter queue"].grade is Grade.WARN
    assert "90 s" in found["sign queue visibility"].text


class DynamoDb:
    """Answers DescribeTable."""

    def __init__(self, table: dict[str, Any] | Exception) -> None:
        self._table = table

    async def describe_table(self, *, TableName: str) -> dict[str, Any]:  # noqa: N803 - boto
        """Answer as DynamoDB."""
        if isinstance(self._table, Exception):
            raise self._table
        key = "publickey" if TableName.endswith("Birth") else "userid"
        return {"Table": {"KeySchema": [{"AttributeName": key}]} | self._table}


GOOD_TABLE = {"TableStatus": "ACTIVE", "DeletionProtectionEnabled": True}


@pytest.mark.parametrize(
    ("table", "grade"),
    [
        (GOOD_TABLE, Grade.OK),
        (GOOD_TABLE | {"DeletionProtectionEnabled": False}, Grade.WARN),
        (GOOD_TABLE | {"TableStatus": "CREATING"}, Grade.FAIL),
        (GOOD_TABLE | {"KeySchema": [{"AttributeName": "id"}]}, Grade.FAIL),
        (client_error("ResourceNotFoundException"), Grade.FAIL),
    ],
)
def test_tables(table: dict[str, Any] | Exception, grade: Grade) -> None:
    """Tables are looked at for key, state and protection; signers have no business with the birth table."""
    for with_births in (True, False):
        calls = check_tables(cast("Any", DynamoDb(table)), StoreSettings(), with_births=with_births)
        found = asyncio.run(calls)
        assert [finding.check for finding in found] == ["key table", "birth table"][: 1 + with_births]
        assert worst(found) is grade


PCR0 = bytes([7]) * 48


def hello(role: Role | None = Role.SIGNER, pcr0: bytes | None = PCR0) -> HelloResult:
    """Return what an enclave says of itself."""
    facts = EnclaveFacts(
        role=role,
        software="s",
        instance=b"",
        module_id=None,
        pcr0=pcr0,
        config_sha256=None,
        kms_key_arn=KEY_ARN,
        processes=1,
    )
    limits = Limits(max_frame_bytes=1, max_batch_items=1, max_in_flight=1)
    return HelloResult(version=1, limits=limits, enclave=facts, ready=True, reason=None)


def policy(signer_pcr0: bytes) -> Policy:
    """Return a key policy that admits one signer image."""
    made = make_key_policy(
        generator_role_arn=f"{ACCOUNT}Generator",
        generator_images=AllowedImages(("ab" * 48,)),
        signer_role_arn=f"{ACCOUNT}Signer",
        signer_images=AllowedImages((signer_pcr0.hex(),)),
        admin_arns=[f"{ACCOUNT}Admin"],
    )
    return parse_policy(json.dumps(made), PolicyKind.KEY)


def empty_policy() -> Policy:
    """Return a key policy that says nothing of enclaves."""
    text = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}]}'
    )
    return parse_policy(text, PolicyKind.KEY)


IMAGES: list[tuple[HelloResult, Callable[[], Policy | None], Grade, str]] = [
    (hello(), lambda: policy(PCR0), Grade.OK, "allows kms:Decrypt"),
    (hello(), lambda: policy(bytes([8]) * 48), Grade.FAIL, "DenyDecryptWithoutPCR0"),
    (hello(), empty_policy, Grade.FAIL, "names nobody"),
    (hello(), lambda: None, Grade.WARN, "not compared"),
    (hello(Role.GENERATOR), lambda: policy(PCR0), Grade.FAIL, "denies kms:GenerateDataKey"),
    (hello(pcr0=bytes(48)), lambda: policy(PCR0), Grade.FAIL, "debug mode"),
    (hello(pcr0=None), lambda: policy(PCR0), Grade.FAIL, "does not know"),
    (hello(None), lambda: policy(PCR0), Grade.FAIL, "does not know"),
]


@pytest.mark.parametrize(("said", "key_policy", "grade", "text"), IMAGES)
def test_images(said: HelloResult, key_policy: Callable[[], Policy | None], grade: Grade, text: str) -> None:
    """An image is judged by the key policy, which decides as KMS would."""
    found = _judge_image("enclave", said, key_policy())
    assert found.grade is grade
    assert text in found.text


def test_identity() -> None:
    """Another role, or another KMS key than the settings say, is a failure."""
    assert _judge_identity("e", "sign", hello(), KEY_ARN) == []
    assert _judge_identity("e", "sign", hello(), None) == []
    found = _judge_identity("e", "generate", hello(), KEY_ARN[:-1] + "6")
    assert [finding.grade for finding in found] == [Grade.FAIL, Grade.FAIL]


@pytest.mark.parametrize("reason", [None, *NotReadyReason])
def test_every_reason_has_a_fix(reason: NotReadyReason | None) -> None:
    """Whatever an enclave gives as a reason, the line says what to do."""
    found = _judge_state("e", status(reason=reason))
    assert found.grade is Grade.FAIL
    assert found.fix


def status(*, ready: bool = False, reason: NotReadyReason | None = None, left_s: int | None = None) -> StatusResult:
    """Return the status of an enclave process."""
    return StatusResult(ready=ready, reason=reason, credentials_expire_in_s=left_s, in_flight=0, counters={})


def test_a_ready_enclave_is_ok() -> None:
    """It says for how long it has credentials, if they end."""
    assert _judge_state("e", status(ready=True)) == Finding("e", Grade.OK, "ready")
    assert "90 s" in _judge_state("e", status(ready=True, left_s=90)).text


async def test_nobody_answers(tmp_path: Path) -> None:
    """An address without an enclave is a failure that says where to look."""
    place = parse_address(f"unix://{tmp_path / 'none.sock'}")
    (found,) = await check_enclave("sign", place, kms_key_arn=None, key_policy=None)
    assert found.grade is Grade.FAIL
    assert "nitro-cli" in found.fix


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        (None, Grade.WARN),
        ("memory_mib: 2048\ncpu_count: 2\n", Grade.OK),
        ('memory_mib: 2048\ncpu_pool: "2,3"\n', Grade.OK),
        ("memory_mib: 2048\n", Grade.FAIL),
        ('memory_mib: 2048\ncpu_count: 2\ncpu_pool: "2,3"\n', Grade.FAIL),
        ("memory_mib: 64\ncpu_count: 2\n", Grade.FAIL),
        ("memory_mib: 2048\ncpu_count: 1\n", Grade.FAIL),
        ("[]", Grade.FAIL),
        ("{", Grade.FAIL),
    ],
)
def test_allocator(tmp_path: Path, text: str | None, grade: Grade) -> None:
    """The allocator's file is looked at as the Nitro CLI reads it."""
    path = tmp_path / "allocator.yaml"
    if text is not None:
        path.write_text(text)
    assert check_allocator(path).grade is grade


def test_an_unreadable_allocator_file(tmp_path: Path) -> None:
    """A file that cannot be read is a failure, not a crash."""
    assert check_allocator(tmp_path).grade is Grade.FAIL


RUNNING = '{"EnclaveID": "i-1-enc1", "State": "RUNNING", "Flags": "NONE", "EnclaveCID": 16}'


@pytest.mark.parametrize(
    ("output", "grade"),
    [
        (f"[{RUNNING}]", Grade.OK),
        (f"[{RUNNING}]".replace("NONE", "DEBUG_MODE"), Grade.FAIL),
        (f"[{RUNNING}]".replace("RUNNING", "TERMINATING"), Grade.FAIL),
        ("[]", Grade.FAIL),
        ("{}", Grade.FAIL),
        ("error", Grade.FAIL),
    ],
)
async def test_nitro_cli(tmp_path: Path, output: str, grade: Grade) -> None:
    """What nitro-cli lists is judged: debug mode is a failure."""
    program = tmp_path / "nitro-cli"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    program.chmod(0o755)
    assert worst(await check_nitro_cli(str(program))) is grade


async def test_without_nitro_cli(tmp_path: Path) -> None:
    """A machine without it, such as a laptop, gets a warning."""
    (found,) = await check_nitro_cli(str(tmp_path / "none"))
    assert found.grade is Grade.WARN


async def test_proxy() -> None:
    """Destinations are tried: one that listens, one that does not, and none at all."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = "allowlist: [{{address: localhost, port: {0}}}]\ndestinations: {1}\n"
    entry = f'[{{listen: "unix:///tmp/x.sock", host: localhost, port: {port}}}]'
    listening = parse_settings(text.format(port, entry))
    assert worst(await check_proxy(listening)) is Grade.OK
    server.close()
    await server.wait_closed()
    assert worst(await check_proxy(listening)) is Grade.FAIL
    assert worst(await check_proxy(parse_settings(text.format(port, "[]")))) is Grade.WARN


def test_lines() -> None:
    """A line shows grade, check, text and fix, and nothing that could move a cursor."""
    assert Finding("clock", Grade.OK, "fine").to_line() == "ok    clock: fine"
    assert Finding("clock", Grade.FAIL, "off", "chronyc").to_line() == "fail  clock: off. Fix: chronyc"
    assert "\x1b" not in Finding("clock", Grade.FAIL, "\x1b[2J").to_line()
    assert worst([]) is Grade.OK
