"""The engine with the real SDK over HTTP, against an SQS that this project did not write."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.awsrequest import AWSPreparedRequest

from config.engine import EngineSettings
from local.ministack import run_ministack
from protocol.errors import ErrorCode
from tests.workers.queue.fifo import check_fifo, make_queue, messages_left, run_until
from workers.aws import USER_AGENT, dynamodb_client, sqs_client
from workers.lifecycle import State
from workers.queue.engine import Engine
from workers.queue.outcome import Failed

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

    from tests.workers.queue.conftest import Rig

PYTHON = Path(__file__).resolve().parents[3] / ".venv-ministack" / "bin" / "python"

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-ministack: run `make setup`"),
]


@pytest.fixture
async def sqs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator["SQSClient", None]:
    """A client made as the worker makes it, on a MiniStack of this test's own."""
    async with run_ministack(PYTHON, tmp_path / "state", log=tmp_path / "log") as running:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint_url)
        async with sqs_client(get_session(), connections=20, read_timeout_s=30) as client:
            yield client


async def _bodies(client: "SQSClient", url: str, count: int) -> list[dict[str, str]]:
    bodies: list[dict[str, str]] = []
    while len(bodies) < count:
        answer = await client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        bodies += [json.loads(message["Body"]) for message in answer.get("Messages", [])]
    return bodies


async def test_standard_queue(rig: "Rig", sqs: "SQSClient", failure: Callable[[ErrorCode], Failed]) -> None:
    """Good, transient and permanent jobs on a real server: answers, a redelivery, a copy, and an empty queue."""
    url, replies, dead = [await make_queue(sqs, name) for name in ("sign", "reply", "dlq")]
    jobs = [json.dumps({"type": "sign", "job_id": f"s-{i}", "userid": "u1", "message": "m"}) for i in range(20)]
    for start in (0, 10):
        entries = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(jobs[start : start + 10])]
        await sqs.send_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]  # a dict is one
    rig.handler.plan("s-3", failure(ErrorCode.KMS_THROTTLED))
    rig.handler.plan("s-7", failure(ErrorCode.UNKNOWN_USER))
    settings = EngineSettings(
        queue_url=url, reply_queue_url=replies, dead_letter_queue_url=dead, wait_time_s=1, backoff_base_s=0.1
    )
    engine = Engine(settings, rig.handler, sqs, clock=time.monotonic, uniform=lambda: 0.5)

    async def settled() -> bool:
        return engine.status.settled.get(State.DELETED) == 20

    await run_until(engine, rig, settled)
    bodies = await _bodies(sqs, replies, 20)
    assert sorted(body["job_id"] for body in bodies) == sorted(f"s-{i}" for i in range(20))
    assert [body["job_id"] for body in bodies if body["status"] == "error"] == ["s-7"]
    assert [body["job_id"] for body in await _bodies(sqs, dead, 1)] == ["s-7"]
    assert await messages_left(sqs, url) == 0


async def test_fifo_queue(rig: "Rig", sqs: "SQSClient") -> None:
    """Order within groups on a real server, groups beside each other, and replies on a FIFO queue: see there."""
    await check_fifo(rig, sqs)


async def test_trace_header_and_user_agent(rig: "Rig", sqs: "SQSClient", monkeypatch: pytest.MonkeyPatch) -> None:
    """What a real server hands out as AWSTraceHeader stands in the reply as sent, under our user agent.

    Looked at on the wire: MiniStack 1.5 keeps system attributes of SendMessage, and drops those of SendMessageBatch.
    """
    sent: list[AWSPreparedRequest] = []

    send = AIOHTTPSession.send

    async def look_and_send(session: AIOHTTPSession, request: AWSPreparedRequest) -> Any:
        if b'"MessageBody"' in cast("bytes", request.body):
            sent.append(request)
        return await send(session, request)

    url, replies = await make_queue(sqs, "sign"), await make_queue(sqs, "reply")
    await sqs.send_message(
        QueueUrl=url,
        MessageBody='{"type": "sign", "job_id": "s-1", "userid": "u1", "message": "m"}',
        MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988-bd86"}},
    )
    settings = EngineSettings(queue_url=url, reply_queue_url=replies, wait_time_s=1)
    engine = Engine(settings, rig.handler, sqs, clock=time.monotonic, uniform=lambda: 0.5)

    async def settled() -> bool:
        return engine.status.settled.get(State.DELETED) == 1

    monkeypatch.setattr(AIOHTTPSession, "send", look_and_send)
    await run_until(engine, rig, settled)
    (request,) = sent
    (entry,) = json.loads(cast("bytes", request.body))["Entries"]
    assert entry["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"] == "Root=1-5759e988-bd86"
    assert USER_AGENT in str(request.headers["user-agent"])


async def test_dynamodb_client_answers(rig: "Rig", sqs: "SQSClient") -> None:
    """The same settings serve DynamoDB."""
    del rig, sqs  # the server and the environment are theirs
    async with dynamodb_client(get_session(), connections=4, read_timeout_s=10, tries=2) as client:
        assert (await client.list_tables())["TableNames"] == []
