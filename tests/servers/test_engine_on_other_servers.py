"""The queue engine on SQS servers that nobody here wrote: what MiniStack does not keep, or lets pass."""

import contextlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiobotocore.session import get_session

from config.engine import EngineSettings
from tests.servers.servers import ELASTICMQ, FAUXQS, MOTO, Server, serving, skip_what_is_missing
from tests.workers.queue.conftest import Rig
from tests.workers.queue.fifo import check_fifo, make_queue, messages_left, run_until
from workers.queue.engine import Engine

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

pytestmark = pytest.mark.stack

TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793"


@contextlib.asynccontextmanager
async def sqs_of(url: str) -> AsyncGenerator["SQSClient", None]:
    """A client of a server."""
    async with get_session().create_client(
        "sqs", region_name="eu-west-1", endpoint_url=url, aws_access_key_id="local", aws_secret_access_key="local"
    ) as client:
        yield client


@pytest.mark.parametrize("server", [MOTO, FAUXQS, ELASTICMQ], ids=lambda server: server.name)
async def test_fifo_queues_of_other_servers(server: Server, tmp_path: Path) -> None:
    """Order within a group, groups beside each other, a group that fails or waits holds up no other."""
    skip_what_is_missing(server)
    async with serving(server, tmp_path / "log") as url, sqs_of(url) as client:
        await check_fifo(Rig(), client)


async def test_trace_header_goes_to_the_reply(tmp_path: Path) -> None:
    """The reply has the AWSTraceHeader of its job, on a server that keeps it in batches."""
    skip_what_is_missing(ELASTICMQ)
    rig = Rig()
    async with serving(ELASTICMQ, tmp_path / "log") as url, sqs_of(url) as client:
        jobs, replies = await make_queue(client, "sign"), await make_queue(client, "reply")
        await client.send_message(
            QueueUrl=jobs,
            MessageBody='{"type": "sign", "job_id": "s-1", "userid": "u1", "message": "m"}',
            MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": TRACE}},
        )
        settings = EngineSettings(queue_url=jobs, reply_queue_url=replies, wait_time_s=1)
        engine = Engine(settings, rig.handler, client, clock=time.monotonic, uniform=lambda: 0.5)

        async def is_answered() -> bool:
            return await messages_left(client, replies) == 1

        await run_until(engine, rig, is_answered)
        answer = await client.receive_message(QueueUrl=replies, MessageSystemAttributeNames=["AWSTraceHeader"])
    assert [message.get("Attributes") for message in answer["Messages"]] == [{"AWSTraceHeader": TRACE}]
