"""An SQS that answers from memory, so that only the client is measured: `python -m benchmarks.canned_sqs JOBS`.

It hands out JOBS sign jobs, ten a receive, accepts every send, delete and visibility change, and counts calls. Its port
stands in the first line of its output; a GET returns the counts.
"""

import asyncio
import hashlib
import json
import sys
from collections import Counter
from typing import ClassVar, cast

_MESSAGES_PER_RECEIVE = 10


class CannedSqs(asyncio.Protocol):
    """One connection. Requests are told apart by their `X-Amz-Target` header (AWS JSON protocol)."""

    calls: ClassVar[Counter[str]] = Counter()
    jobs_left: ClassVar[int] = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1")
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
            length = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            action = headers.get("x-amz-target", "amazonsqs.counts").rsplit(".", 1)[-1]
            self._answer(action, body)

    def _answer(self, action: str, body: bytes) -> None:
        if action == "receivemessage":
            answer: object = self._receive()
            if not answer:
                asyncio.get_running_loop().call_later(1.0, self._write, {})  # a long poll of a second
                return
        elif action == "counts":
            answer = self.calls
        else:
            count = body.count(b'"Id"')
            answer = {"Successful": [{"Id": str(i), "MessageId": "m", "MD5OfMessageBody": "0"} for i in range(count)]}
        self.calls[action] += 1
        self._write(answer)

    def _receive(self) -> object:
        count = min(_MESSAGES_PER_RECEIVE, CannedSqs.jobs_left)
        first = CannedSqs.jobs_left
        CannedSqs.jobs_left -= count
        return {"Messages": [_message(first - i) for i in range(count)]} if count else None

    def _write(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        if self._transport is not None:
            self._transport.write(head.encode() + body)


def _message(number: int) -> dict[str, object]:
    job = {"type": "sign", "job_id": f"s-{number}", "userid": f"u{number % 1000:04}", "message": f"payment {number}"}
    body = json.dumps(job)
    digest = hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
    return {
        "MessageId": f"{number:08x}-5fea-4602-8a0d-000000000000",
        "ReceiptHandle": f"{number:08x}" * 20,
        "MD5OfBody": digest,
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "1"},
    }


async def main() -> None:
    """Serve until ended."""
    CannedSqs.jobs_left = int(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(CannedSqs, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
