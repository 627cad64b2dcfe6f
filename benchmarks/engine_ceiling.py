"""CPU of the queue engine beside a plain batched loop on the same SDK: `python -m benchmarks.engine_ceiling [JOBS]`.

Both receive, answer and delete the same sign jobs from a canned SQS; the work itself is nothing. What is left is the
price of the engine: parsing, life cycle, ledger, batching. The loop runs with the stock settings of the SDK,
and with ours.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.session import get_session

from config.engine import EngineSettings
from protocol.jobs import Job, SignReply
from workers.aws import sqs_client
from workers.engine import Engine
from workers.outcome import Answered, Outcome
from workers.stopping import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 5
_SIGNATURE, _PUBLIC_KEY = "5a" * 64, "04" * 64


class NoWork:
    """A handler that answers at once, and asks for a stop after the last job."""

    job_type = "sign"

    def __init__(self, jobs: int, stop: Stop) -> None:
        self._left = jobs
        self._stop = stop

    async def handle(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Answer each job with the same signature."""
        self._left -= len(jobs)
        if self._left == 0:
            self._stop.request()
        return [
            Answered(SignReply(job_id=job.job_id, userid=job.userid or "", signature=_SIGNATURE, publickey=_PUBLIC_KEY))
            for job in jobs
        ]


async def run_engine(client: Any, url: str, jobs: int) -> None:
    """Work through all jobs with the engine."""
    settings = EngineSettings(queue_url=url, reply_queue_url=f"{url}-reply", wait_time_s=1, pollers=2, slots=100)
    stop = Stop()
    handler: Any = NoWork(jobs, stop)
    await Engine(settings, handler, client, clock=time.monotonic, uniform=lambda: 0.5).run(stop)


async def run_plain(client: Any, url: str, jobs: int) -> None:
    """Work through all jobs with two loops that do just the three calls."""
    left = jobs

    async def loop() -> None:
        nonlocal left
        while left > 0:
            left -= 10
            answer = await client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            messages = answer["Messages"]
            replies: list[dict[str, str]] = []
            for i, message in enumerate(messages):
                job = json.loads(message["Body"])
                reply = {"job_id": job["job_id"], "signature": _SIGNATURE, "publickey": _PUBLIC_KEY}
                replies.append({"Id": str(i), "MessageBody": json.dumps(reply)})
            await client.send_message_batch(QueueUrl=f"{url}-reply", Entries=replies)
            handles = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
            await client.delete_message_batch(QueueUrl=url, Entries=handles)

    async with asyncio.TaskGroup() as group:
        group.create_task(loop())
        group.create_task(loop())


@contextmanager
def canned_sqs(jobs: int) -> "Iterator[int]":
    """Start the canned SQS and yield its port."""
    command = [sys.executable, "-m", "benchmarks.canned_sqs", str(jobs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()


@asynccontextmanager
async def client_at(port: int, *, stock: bool = False) -> AsyncGenerator[Any, None]:
    """Open a client on the canned SQS, with this project's own settings or as the SDK comes."""
    credentials = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "eu-west-1"}
    os.environ.update(credentials, AWS_ENDPOINT_URL_SQS=f"http://127.0.0.1:{port}")
    own = sqs_client(get_session(), connections=32, read_timeout_s=30)
    async with get_session().create_client("sqs") if stock else own as client:
        yield client


async def measure(kind: str, jobs: int) -> tuple[float, dict[str, int]]:
    """Return CPU microseconds for a job, and the calls of each kind."""
    with canned_sqs(jobs) as port:
        async with client_at(port, stock=kind == "stock") as client, aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{port}/000000000000/sign"
            started = time.process_time()
            await (run_engine if kind == "engine" else run_plain)(client, url, jobs)
            spent = time.process_time() - started
            calls = await (await http.get(f"http://127.0.0.1:{port}/")).json(content_type=None)
            return spent / jobs * 1e6, calls


def main() -> None:
    """Measure both by turns and print medians and their ratio."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    spent: dict[str, list[float]] = {"stock": [], "plain": [], "engine": []}
    for _ in range(_ROUNDS):
        for kind, values in spent.items():
            microseconds, calls = asyncio.run(measure(kind, jobs))
            values.append(microseconds)
            print(f"{kind:7} {microseconds:7.1f} us/job  calls {calls}")
    stock, plain, engine = (statistics.median(values) for values in spent.values())
    print(f"plain loop: stock {stock:.1f}, our client settings {plain:.1f}; engine {engine:.1f} us/job")
    print(
        f"engine's jobs per CPU-second: {stock / engine:.2f} of the stock loop, {plain / engine:.2f} of the tuned one"
    )


if __name__ == "__main__":
    main()
