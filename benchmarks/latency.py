"""One job at a time on an idle stack: from the send to the reply, as a client sees it."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiobotocore.session import get_session

from benchmarks.aws_server import run_aws_server
from benchmarks.figures import Row, Spread
from benchmarks.service import run_service
from local.stack import LocalStack, run_stack

_WARM_UP: Final = 5


async def measure(folder: Path, jobs: int) -> list[Row]:
    """Return p50 and p99 in milliseconds: on the memory server, and on MiniStack.

    MiniStack looks for messages every 100 ms while a long poll waits (twice a job: for the job and for the reply), so
    the goal is held against the server that answers a waiting poll at once, as SQS does.
    """
    with run_aws_server() as aws:
        async with run_service(folder / "memory", aws) as service, _client(service.stack) as sqs:
            at_once = await _times(service.stack, sqs, jobs)
    async with run_stack(folder / "ministack") as stack, _client(stack) as sqs:
        by_looking = await _times(stack, sqs, max(20, jobs // 4))
    name = "one job on an idle stack, send to reply"
    return [
        Row(f"{name}, p50", _percentile(at_once, 50), at_most=30, unit="ms"),
        Row(f"{name}, p99", _percentile(at_once, 99), at_most=100, unit="ms"),
        Row(f"{name}, p50 with MiniStack's long polls", _percentile(by_looking, 50), unit="ms"),
    ]


@asynccontextmanager
async def _client(stack: LocalStack) -> AsyncGenerator[Any, None]:
    session = get_session()
    session.set_credentials("local", "local")
    facts = stack.facts
    async with session.create_client("sqs", region_name=facts.region, endpoint_url=facts.endpoint_url) as sqs:
        yield sqs


async def _times(stack: LocalStack, sqs: Any, jobs: int) -> list[float]:
    facts = stack.facts
    replies = (await sqs.create_queue(QueueName="nitro-signer-reply-latency"))["QueueUrl"]
    took: list[float] = []
    await _ask(sqs, facts.generate_queue_url, replies, {"type": "generate", "userid": "u1"})
    for number in range(_WARM_UP + jobs):
        began = time.perf_counter()
        await _ask(sqs, facts.sign_queue_url, replies, {"type": "sign", "userid": "u1", "message": str(number)})
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took[_WARM_UP:])


async def _ask(sqs: Any, queue: str, replies: str, job: dict[str, str]) -> None:
    await sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({**job, "reply_to": replies}))
    while not (received := (await sqs.receive_message(QueueUrl=replies, WaitTimeSeconds=5)).get("Messages")):
        pass
    await sqs.delete_message(QueueUrl=replies, ReceiptHandle=received[0]["ReceiptHandle"])
    assert json.loads(received[0]["Body"])["status"] == "ok", received[0]["Body"]


def _percentile(values: list[float], percent: int) -> Spread:
    return Spread.of([values[min(len(values) - 1, len(values) * percent // 100)]])
