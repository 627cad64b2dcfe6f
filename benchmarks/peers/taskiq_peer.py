"""Taskiq with taskiq-aio-sqs, ten messages a receive; the task answers with aiobotocore."""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

from aiobotocore.session import get_session
from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_sqs import SQSBroker

from benchmarks.peers.work import CLIENT, CREDENTIALS, ENDPOINT, REGION, answer, reply_url

broker = SQSBroker(
    "taskiq-jobs",
    endpoint_url=ENDPOINT,
    region_name=REGION,
    wait_time_seconds=1,
    max_number_of_messages=10,
    **CREDENTIALS,
)
_stack = AsyncExitStack()
_clients: list[Any] = []


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_client(_: TaskiqState) -> None:
    """Open the client that answers."""
    _clients.append(await _stack.enter_async_context(get_session().create_client("sqs", **CLIENT)))


@broker.task(task_name="job")
async def job(kind: str, number: int) -> None:
    """Do one job and reply."""
    await _clients[0].send_message(QueueUrl=reply_url("taskiq"), MessageBody=answer(kind, number))


async def _fill(kind: str, count: int) -> None:
    await broker.startup()
    for number in range(count):
        await job.kiq(kind, number)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(_fill(sys.argv[2], int(sys.argv[3])))
