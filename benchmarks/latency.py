"""One job at a time on an idle stack with MiniStack: from the send to the reply."""

import json
import time
from pathlib import Path
from typing import Final

from aiobotocore.session import get_session

from benchmarks.figures import Row, Spread
from local.jobs_client import JobsClient
from local.stack import run_stack

_WARM_UP: Final = 5


async def measure(folder: Path, jobs: int) -> list[Row]:
    """Return p50 and p99 in milliseconds."""
    took: list[float] = []
    async with run_stack(folder) as stack:
        facts = stack.facts
        session = get_session()
        session.set_credentials("local", "local")
        async with (
            session.create_client("sqs", region_name=facts.region, endpoint_url=facts.endpoint_url) as sqs,
            session.create_client("dynamodb", region_name=facts.region, endpoint_url=facts.endpoint_url) as dynamodb,
        ):
            client = JobsClient(facts, sqs, dynamodb)
            await client.ask({"type": "generate", "job_id": "g", "userid": "u1"})
            for number in range(_WARM_UP + jobs):
                job = {"type": "sign", "job_id": f"s-{number}", "userid": "u1", "message": json.dumps(number)}
                began = time.perf_counter()
                reply = await client.ask(job)
                took.append((time.perf_counter() - began) * 1000)
                assert reply["status"] == "ok", reply
    took = sorted(took[_WARM_UP:])
    return [
        Row("one job on an idle stack, send to reply, p50", _one(took[len(took) // 2]), at_most=30, unit="ms"),
        Row("the same, p99", _one(took[min(len(took) - 1, len(took) * 99 // 100)]), at_most=100, unit="ms"),
    ]


def _one(value: float) -> Spread:
    return Spread.of([value])
