"""The ceiling of the SDK: a loop of aiobotocore calls, ten messages each, no engine and no care for any failure."""

import asyncio
import json
from typing import Any

from aiobotocore.session import get_session

from benchmarks.peers.work import CLIENT, answer, queue_url, reply_url

QUEUE = "plain-jobs"
_LOOPS = 2


async def loop(client: Any) -> None:
    """Receive, answer and delete for ever."""
    while True:
        received = await client.receive_message(QueueUrl=queue_url(QUEUE), MaxNumberOfMessages=10, WaitTimeSeconds=1)
        messages = received.get("Messages", [])
        if not messages:
            continue
        jobs = [json.loads(message["Body"]) for message in messages]
        replies = [{"Id": str(i), "MessageBody": answer(job["kind"], job["number"])} for i, job in enumerate(jobs)]
        await client.send_message_batch(QueueUrl=reply_url("plain"), Entries=replies)
        handles = [{"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]} for i, message in enumerate(messages)]
        await client.delete_message_batch(QueueUrl=queue_url(QUEUE), Entries=handles)


async def main() -> None:
    """Run the loops on one client with its stock settings."""
    async with get_session().create_client("sqs", **CLIENT) as client, asyncio.TaskGroup() as group:
        for _ in range(_LOOPS):
            group.create_task(loop(client))


if __name__ == "__main__":
    asyncio.run(main())
