"""An SQS over HTTP that keeps the job ids of what it is sent, fast enough for a hundred thousand of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class FastSqs:
    """Takes batches of messages.

    Attributes:
        job_ids: of what it has accepted, by the name of the queue, in order.
        on_job: called after each job with how many there are.
        refuse: fault code for a body, with whom to blame; None to take it.
        is_down: answers every call with a failure of the service.
    """

    def __init__(self) -> None:
        self.job_ids: dict[str, list[str]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.on_job: Callable[[int], None] = lambda _count: None
        self.refuse: Callable[[dict[str, Any]], tuple[str, bool] | None] = lambda _job: None
        self.is_down = False
        self.calls = 0
        self.endpoint_url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[FastSqs, None]:
        """Listen on loopback."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    def take(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do a SendMessageBatch."""
        self.calls += 1
        taken = self.job_ids.setdefault(request["QueueUrl"].rsplit("/", 1)[-1], [])
        done: list[dict[str, str]] = []
        failed: list[dict[str, Any]] = []
        for entry in request["Entries"]:
            job = json.loads(entry["MessageBody"])
            problem = self.refuse(job)
            if problem is not None:
                failed.append({"Id": entry["Id"], "Code": problem[0], "SenderFault": problem[1]})
                continue
            taken.append(job["job_id"])
            self.bodies.append(job)
            done.append({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "0"})
            self.on_job(len(self.bodies))
        return {"Successful": done, **({"Failed": failed} if failed else {})}


class _Connection(asyncio.Protocol):
    def __init__(self, sqs: FastSqs) -> None:
        self._sqs = sqs
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n") + 4) > 3:
            headers = dict(line.lower().split(": ", 1) for line in self._buffer[:end].decode().split("\r\n")[1:-2])
            whole = end + int(headers["content-length"])
            if len(self._buffer) < whole:
                return
            request, self._buffer = json.loads(self._buffer[end:whole]), self._buffer[whole:]
            if self._sqs.is_down:
                self._write("500 Oops", {"__type": "InternalError"})
            else:
                self._write("200 OK", self._sqs.take(request))

    def _write(self, status: str, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        if self._transport is not None:
            self._transport.write(head.encode() + body)
