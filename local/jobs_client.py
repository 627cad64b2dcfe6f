"""A small client for the demo: sends jobs, waits for their replies, and changes rows as an attacker would."""

import asyncio
import json
from typing import Any, Final

from local.stack_facts import StackFacts

_WAIT_S: Final = 5
_TIMEOUT_S: Final = 60.0


class JobsClient:
    """Talks to the queues and the table of a stack with plain AWS calls."""

    def __init__(self, facts: StackFacts, sqs: Any, dynamodb: Any) -> None:
        self._facts = facts
        self._sqs = sqs
        self._dynamodb = dynamodb

    async def ask(self, job: dict[str, str]) -> dict[str, Any]:
        """Send a job and return its reply; replies to other jobs are left on the queue."""
        facts = self._facts
        queue = facts.generate_queue_url if job["type"] == "generate" else facts.sign_queue_url
        await self._sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(job))
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                answer = await self._sqs.receive_message(
                    QueueUrl=facts.reply_queue_url, WaitTimeSeconds=_WAIT_S, MaxNumberOfMessages=1
                )
                for message in answer.get("Messages", []):
                    reply: dict[str, Any] = json.loads(message["Body"])
                    if reply["job_id"] != job["job_id"]:
                        continue
                    await self._sqs.delete_message(
                        QueueUrl=facts.reply_queue_url, ReceiptHandle=message["ReceiptHandle"]
                    )
                    return reply

    async def row(self, userid: str) -> dict[str, Any]:
        """Return the stored key record."""
        answer = await self._dynamodb.get_item(
            TableName=self._facts.table, Key={"userid": {"S": userid}}, ConsistentRead=True
        )
        item: dict[str, Any] = answer["Item"]
        return item

    async def overwrite_row(self, item: dict[str, Any]) -> None:
        """Put a row without any condition, as only an attacker would."""
        await self._dynamodb.put_item(TableName=self._facts.table, Item=item)
