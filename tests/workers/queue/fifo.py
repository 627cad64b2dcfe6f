"""What must hold of a FIFO queue, on a server that this project did not write."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from config.engine import EngineSettings
from protocol.errors import ErrorCode, SignerError
from workers.lifecycle import State
from workers.queue.engine import Engine
from workers.queue.outcome import Failed

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

    from tests.workers.queue.conftest import Rig

JOBS_OF_A_GROUP = 4


async def make_queue(client: "SQSClient", name: str) -> str:
    """Create a queue; return its URL."""
    fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    return (await client.create_queue(QueueName=name, Attributes=fifo))["QueueUrl"]  # type: ignore[arg-type]  # names


async def messages_left(client: "SQSClient", url: str) -> int:
    """Return how many messages a queue has, those in flight included."""
    answer = await client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    attributes = answer["Attributes"]
    hidden = int(attributes["ApproximateNumberOfMessagesNotVisible"])
    return int(attributes["ApproximateNumberOfMessages"]) + hidden


async def run_until(engine: Engine, rig: "Rig", holds: Callable[[], Awaitable[bool]]) -> None:
    """Run an engine until something holds, then drain it."""
    async with _running(engine, rig):
        while not await holds():  # noqa: ASYNC110 - asks another process
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _running(engine: Engine, rig: "Rig") -> AsyncGenerator[None, None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.run(rig.stop))
        yield
        rig.stop.request()


async def check_fifo(rig: "Rig", client: "SQSClient") -> None:
    """Check that groups keep their order through a failure, and that one which is held up holds up no other."""
    url, replies = await make_queue(client, "sign.fifo"), await make_queue(client, "reply.fifo")
    release = asyncio.Event()
    rig.handler.plan("held-0", release)
    rig.handler.plan("failing-1", Failed(SignerError(ErrorCode.KMS_THROTTLED)))
    settings = EngineSettings(queue_url=url, reply_queue_url=replies, wait_time_s=1, backoff_base_s=0.1)
    engine = Engine(settings, rig.handler, client, clock=time.monotonic, uniform=lambda: 0.5)

    def deleted() -> int:
        return engine.status.settled.get(State.DELETED, 0)

    async def send(*groups: str) -> None:
        for i in range(JOBS_OF_A_GROUP):
            for group in groups:
                body = json.dumps({"type": "sign", "job_id": f"{group}-{i}", "userid": group, "message": "m"})
                await client.send_message(
                    QueueUrl=url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=f"{group}{i}"
                )

    async with _running(engine, rig):
        await send("held")
        while "held-0" not in rig.handler.seen:  # noqa: ASYNC110 - the server is another process
            await asyncio.sleep(0.02)
        await send("failing", "good")  # these come by other receives: jobs that the handler gets together end together
        while deleted() < 2 * JOBS_OF_A_GROUP:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        assert "held-1" not in rig.handler.seen
        release.set()
        while deleted() < 3 * JOBS_OF_A_GROUP:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    for group, expected in (
        ("held", ["held-0", "held-1", "held-2", "held-3"]),
        ("failing", ["failing-0", "failing-1", "failing-1", "failing-2", "failing-3"]),
        ("good", ["good-0", "good-1", "good-2", "good-3"]),
    ):
        assert [job_id for job_id in rig.handler.seen if job_id.startswith(group)] == expected
    assert await messages_left(client, url) == 0
    assert await messages_left(client, replies) == 3 * JOBS_OF_A_GROUP
