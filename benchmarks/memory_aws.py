"""SQS, DynamoDB and a little KMS in memory, so fast that only their clients count: `python -m benchmarks.memory_aws`.

One process, one port, the AWS JSON protocol; no signatures are checked, nothing is stored, and the time of a call does
not depend on how much lies in a queue. Queues and tables are there when they are first named. The port stands in the
first line of the output. Beside AWS's calls there are `GET /` (counts) and `POST /fill?QUEUE` (message bodies as JSON).
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

_LONG_POLL_S: Final = 1.0
_REPLY_QUEUE: Final = "reply"
_ACCOUNT: Final = "000000000000"

Answer = dict[str, Any] | None


class _RefusedError(Exception):
    """An error of DynamoDB."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        self.body = body


@dataclass
class MemoryAws:
    """What is there, and how often it was asked for."""

    url: str = ""
    queues: dict[str, deque[str]] = field(default_factory=dict)
    in_flight: dict[str, tuple[str, str]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    replies: int = 0
    errors: int = 0
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    polls: dict[str, deque[asyncio.Future[None]]] = field(default_factory=dict)
    """Receives that wait, by queue: each message wakes one."""

    def counts(self) -> dict[str, Any]:
        """Return what was asked for so far, replies that were sent, and how many of them were errors."""
        return {"calls": self.calls, "replies": self.replies, "errors": self.errors, "in_flight": len(self.in_flight)}

    def fill(self, name: str, bodies: list[str]) -> dict[str, Any]:
        """Put messages on a queue."""
        for body in bodies:
            self._put(name, body)
        return {}

    def call(self, action: str, request: dict[str, Any]) -> Answer:
        """Do one AWS call; None for a receive that finds nothing."""
        self.calls[action] += 1
        act = _ACTIONS.get(action)
        return {} if act is None else act(self, request)

    def _queue(self, url: str) -> deque[str]:
        return self.queues.setdefault(url.rsplit("/", 1)[-1], deque())

    def _put(self, url: str, body: str) -> None:
        name = url.rsplit("/", 1)[-1]
        self._queue(name).append(body)
        waiting = self.polls.get(name)
        while waiting:
            poll = waiting.popleft()
            if not poll.done():
                poll.set_result(None)
                return

    async def long_poll(self, request: dict[str, Any]) -> dict[str, Any]:
        """Wait for a message, and receive it; nothing after a while."""
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.polls.setdefault(request["QueueUrl"].rsplit("/", 1)[-1], deque()).append(arrived)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONG_POLL_S):
                await arrived
        return self.receive(request) or {}

    # SQS

    def queue_url(self, request: dict[str, Any]) -> Answer:
        """CreateQueue, GetQueueUrl."""
        return {"QueueUrl": f"{self.url}/{_ACCOUNT}/{request['QueueName']}"}

    def queue_attributes(self, request: dict[str, Any]) -> Answer:
        """GetQueueAttributes."""
        name = request["QueueUrl"].rsplit("/", 1)[-1]
        waiting = str(len(self._queue(name)))
        return {
            "Attributes": {
                "QueueArn": f"arn:aws:sqs:us-east-1:{_ACCOUNT}:{name}",
                "ApproximateNumberOfMessages": waiting,
            }
        }

    def receive(self, request: dict[str, Any]) -> Answer:
        """ReceiveMessage."""
        name = request["QueueUrl"].rsplit("/", 1)[-1]
        queue = self._queue(name)
        count = min(int(request.get("MaxNumberOfMessages", 1)), len(queue))
        return {"Messages": [self._hand_out(name, queue.popleft()) for _ in range(count)]} if count else None

    def _hand_out(self, name: str, body: str) -> dict[str, Any]:
        handle = f"{next(self.numbers):032x}" * 6
        self.in_flight[handle] = name, body
        return {
            "MessageId": f"{handle[:8]}-5fea-4602-8a0d-{handle[20:32]}",
            "ReceiptHandle": handle,
            "MD5OfBody": _md5(body),
            "Body": body,
            "Attributes": {"ApproximateReceiveCount": "1"},
        }

    def send(self, request: dict[str, Any]) -> Answer:
        """SendMessage."""
        return self._send(request["QueueUrl"], request)

    def send_batch(self, request: dict[str, Any]) -> Answer:
        """SendMessageBatch."""
        sent = [{"Id": entry["Id"], **self._send(request["QueueUrl"], entry)} for entry in request["Entries"]]
        return {"Successful": sent}

    def _send(self, url: str, entry: dict[str, Any]) -> dict[str, Any]:
        body: str = entry["MessageBody"]
        if url.rsplit("/", 1)[-1].endswith(_REPLY_QUEUE):  # nobody takes them: they would only fill the memory
            self.replies += 1
            self.errors += '"status":"error"' in body
        else:
            self._put(url, body)
        return {"MessageId": f"{next(self.numbers):032x}", "MD5OfMessageBody": _md5(body)}

    def delete(self, request: dict[str, Any]) -> Answer:
        """DeleteMessage."""
        self.in_flight.pop(request["ReceiptHandle"], None)
        return {}

    def delete_batch(self, request: dict[str, Any]) -> Answer:
        """DeleteMessageBatch."""
        for entry in request["Entries"]:
            self.delete(entry)
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}

    def change_visibility(self, request: dict[str, Any]) -> Answer:
        """ChangeMessageVisibility: 0 puts the message back, anything else changes nothing here."""
        if request["VisibilityTimeout"] == 0 and (found := self.in_flight.pop(request["ReceiptHandle"], None)):
            name, body = found
            self._put(name, body)
        return {}

    def change_visibility_batch(self, request: dict[str, Any]) -> Answer:
        """ChangeMessageVisibilityBatch."""
        for entry in request["Entries"]:
            self.change_visibility(entry)
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}

    # DynamoDB

    def create_table(self, request: dict[str, Any]) -> Answer:
        """CreateTable."""
        self.keys[request["TableName"]] = request["KeySchema"][0]["AttributeName"]
        self.tables[request["TableName"]] = {}
        return {}

    def put_item(self, request: dict[str, Any]) -> Answer:
        """PutItem, always on the condition that the key is new."""
        table = request["TableName"]
        key = request["Item"][self.keys[table]]["S"]
        stored = self.tables[table].setdefault(key, request["Item"])
        if stored is not request["Item"]:
            raise _RefusedError({"__type": "com.amazonaws#ConditionalCheckFailedException", "Item": stored})
        return {}

    def get_item(self, request: dict[str, Any]) -> Answer:
        """GetItem."""
        ((_, key),) = request["Key"].items()
        item = self.tables[request["TableName"]].get(key["S"])
        return {} if item is None else {"Item": item}

    def batch_get_item(self, request: dict[str, Any]) -> Answer:
        """BatchGetItem on one table."""
        ((table, wanted),) = request["RequestItems"].items()
        keys = [next(iter(key.values()))["S"] for key in wanted["Keys"]]
        items = self.tables[table]
        return {"Responses": {table: [items[key] for key in keys if key in items]}, "UnprocessedKeys": {}}

    # KMS

    def decrypt(self, _: dict[str, Any]) -> Answer:
        """Decrypt, for the peer that only waits for its answer: always the same data key."""
        return {"Plaintext": base64.b64encode(bytes(32)).decode(), "KeyId": "key"}


_ACTIONS: Final[dict[str, Callable[[MemoryAws, dict[str, Any]], Answer]]] = {
    "CreateQueue": MemoryAws.queue_url,
    "GetQueueUrl": MemoryAws.queue_url,
    "GetQueueAttributes": MemoryAws.queue_attributes,
    "ReceiveMessage": MemoryAws.receive,
    "SendMessage": MemoryAws.send,
    "SendMessageBatch": MemoryAws.send_batch,
    "DeleteMessage": MemoryAws.delete,
    "DeleteMessageBatch": MemoryAws.delete_batch,
    "ChangeMessageVisibility": MemoryAws.change_visibility,
    "ChangeMessageVisibilityBatch": MemoryAws.change_visibility_batch,
    "CreateTable": MemoryAws.create_table,
    "PutItem": MemoryAws.put_item,
    "GetItem": MemoryAws.get_item,
    "BatchGetItem": MemoryAws.batch_get_item,
    "Decrypt": MemoryAws.decrypt,
}


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()  # what SQS answers, and some clients check


class _Connection(asyncio.Protocol):
    """HTTP/1.1, kept alive, one request after another."""

    def __init__(self, aws: MemoryAws, polls: asyncio.TaskGroup) -> None:
        self._aws = aws
        self._polls = polls
        self._buffer = b""
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            if headers.get("expect"):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._handle(first.split(" ")[1], headers.get("x-amz-target", ""), body)

    def _handle(self, path: str, target: str, body: bytes) -> None:
        try:
            if path.startswith("/fill?"):
                answer: Answer = self._aws.fill(path.partition("?")[2], json.loads(body))
            elif not target:
                answer = self._aws.counts()
            else:
                answer = self._aws.call(target.rpartition(".")[2], json.loads(body))
        except _RefusedError as refused:
            self._write(refused.body, "400 Bad Request")
            return
        if answer is None:
            self._polls.create_task(self._wait(json.loads(body)))
        else:
            self._write(answer)

    async def _wait(self, request: dict[str, Any]) -> None:
        self._write(await self._aws.long_poll(request))

    def _write(self, answer: dict[str, Any], status: str = "200 OK") -> None:
        body = json.dumps(answer).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def main() -> None:
    """Serve until ended."""
    aws = MemoryAws()
    async with asyncio.TaskGroup() as polls:
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(aws, polls), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        aws.url = f"http://127.0.0.1:{port}"
        print(port, flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
