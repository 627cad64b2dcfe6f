"""The clients of a run: they put jobs on the queues, collect what comes back, and look at the tables again and again.

They talk to the servers themselves, past the fault proxy: what they see is what is there.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from local.stack_facts import StackFacts
from protocol.jobs import REPLY
from tests.chaos.history import History, Sent

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_sqs import SQSClient

_PAUSE_S: Final = 0.2
_POLL_S: Final = 2
_LOOK_EVERY_S: Final = 5.0
_BATCH: Final = 10

AnswerT = TypeVar("AnswerT")


class Clients:
    """All clients of a stack. Made by `open_clients`."""

    def __init__(self, facts: StackFacts, sqs: "SQSClient", dynamodb: "DynamoDBClient", history: History) -> None:
        self.facts = facts
        self.history = history
        self.users: list[str] = []
        """Those with a key, as replies have said."""
        self.changed = asyncio.Event()
        """Set when a reply or a dead letter came."""
        self._known: set[str] = set()
        self._sqs = sqs
        self._dynamodb = dynamodb

    async def send(self, jobs: list[Sent]) -> None:
        """Put jobs on their queues. When the answer is lost they are sent once more, as clients do."""
        queues = {"generate": self.facts.generate_queue_url, "sign": self.facts.sign_queue_url}
        for job in jobs:
            self.history.sent[job.job_id] = job
        for kind, url in queues.items():
            bodies = [json.dumps(job.body) for job in jobs if job.body["type"] == kind]
            for start in range(0, len(bodies), _BATCH):
                await self._send(url, bodies[start : start + _BATCH])

    async def _send(self, url: str, bodies: list[str]) -> None:
        async def once() -> None:
            answer = await self._sqs.send_message_batch(
                QueueUrl=url,
                Entries=[{"Id": str(place), "MessageBody": body} for place, body in enumerate(bodies)],
            )
            assert not answer.get("Failed")

        await _insist(once)

    async def collect_replies(self) -> None:
        """Take replies off their queue until cancelled."""
        await self._collect(self.facts.reply_queue_url, self._note_reply)

    async def collect_dead_letters(self, url: str) -> None:
        """Take messages off a dead-letter queue until cancelled."""
        await self._collect(url, self._note_dead_letter)

    def _note_reply(self, message: Mapping[str, Any]) -> None:
        body = message["Body"]
        try:
            REPLY.validate_json(body)
        except ValidationError:
            self.history.unreadable.append(body)
            return
        reply = json.loads(body)
        if reply["type"] == "generate" and reply["status"] == "ok" and reply["userid"] not in self._known:
            self._known.add(reply["userid"])
            self.users.append(reply["userid"])
        self.history.replies.setdefault(reply["job_id"], []).append(reply)

    def _note_dead_letter(self, message: Mapping[str, Any]) -> None:
        attributes = message.get("MessageAttributes", {})
        reason = attributes.get("error_code", {}).get("StringValue")
        job_id = json.loads(message["Body"])["job_id"]
        self.history.dead_letters.setdefault(job_id, []).append(reason)

    async def _collect(self, url: str, note: Callable[[Mapping[str, Any]], None]) -> None:
        noted: set[str] = set()
        while True:
            answer = await _insist(
                lambda: self._sqs.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=_POLL_S, MessageAttributeNames=["All"]
                )
            )
            messages = answer.get("Messages", [])
            for message in messages:
                if message["MessageId"] not in noted:  # our own delete may have been lost
                    noted.add(message["MessageId"])
                    note(message)
            if messages:
                self.changed.set()
                with contextlib.suppress(BotoCoreError, ClientError, OSError):  # it comes again, and is known then
                    await self._sqs.delete_message_batch(
                        QueueUrl=url,
                        Entries=[
                            {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]}
                            for place, message in enumerate(messages)
                        ],
                    )

    async def watch_tables(self) -> None:
        """Look at both tables every few seconds until cancelled."""
        while True:
            await self.look_at_tables()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look_at_tables(self) -> None:
        """Compare all records and certificates with what was seen of them before."""
        self.history.keep_snapshot(self.history.records, await self._items(self.facts.table, "userid"))
        self.history.keep_snapshot(self.history.births, await self._items(self.facts.birth_table, "publickey"))

    async def _items(self, table: str, key_name: str) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        start: Any = {}
        while True:
            begin: Any = {"ExclusiveStartKey": start} if start else {}
            answer = await _insist(
                lambda begin=begin: self._dynamodb.scan(TableName=table, ConsistentRead=True, **begin)  # type: ignore[misc]  # a default argument that binds
            )
            for attributes in answer.get("Items", []):
                item: dict[str, str] = {name: value["S"] for name, value in attributes.items()}
                found[item[key_name]] = item
            start = answer.get("LastEvaluatedKey")
            if not start:
                return found


async def _insist(once: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
    while True:
        try:
            return await once()
        except (BotoCoreError, ClientError, OSError):  # the server is being restarted
            await asyncio.sleep(_PAUSE_S)


@contextlib.asynccontextmanager
async def open_clients(facts: StackFacts, history: History) -> AsyncGenerator[Clients, None]:
    """Open clients of a stack."""
    session = get_session()
    session.set_credentials("client", "client")
    config = AioConfig(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15, max_pool_connections=20)
    async with (
        session.create_client("sqs", region_name=facts.region, endpoint_url=facts.endpoint_url, config=config) as sqs,
        session.create_client(
            "dynamodb", region_name=facts.region, endpoint_url=facts.dynamodb_endpoint_url, config=config
        ) as dynamodb,
    ):
        yield Clients(facts, sqs, dynamodb, history)
