"""The whole service on other SQS and DynamoDB servers than MiniStack, without faults: `make test-servers`.

What an emulator lets pass or invents, another one does not.
"""

import contextlib
from pathlib import Path

import pytest

from local.stack_options import AwsEndpoints
from tests.chaos.run import ChaosOptions, run_chaos
from tests.servers.servers import DYNALITE, ELASTICMQ, FAUXQS, MOTO, Server, serving, skip_what_is_missing

pytestmark = pytest.mark.stack

JOBS = 60
"""moto walks its whole queue for each receive: tens of messages, not hundreds."""


@pytest.mark.parametrize(
    ("sqs", "dynamodb"),
    [(MOTO, MOTO), (FAUXQS, DYNALITE), (ELASTICMQ, MOTO)],
    ids=["moto", "fauxqs and dynalite", "ElasticMQ and moto"],
)
async def test_every_promise_is_kept_on_other_servers(sqs: Server, dynamodb: Server, tmp_path: Path) -> None:
    """Every job is answered, every signature verifies, no record changes, what must fail fails."""
    skip_what_is_missing(sqs, dynamodb)
    async with contextlib.AsyncExitStack() as running:
        sqs_url = await running.enter_async_context(serving(sqs, tmp_path / "sqs.log"))
        dynamodb_url = sqs_url
        if dynamodb is not sqs:
            dynamodb_url = await running.enter_async_context(serving(dynamodb, tmp_path / "dynamodb.log"))
        options = ChaosOptions(
            seed=1, duration_s=5, jobs=JOBS, settle_timeout_s=300, endpoints=AwsEndpoints(sqs_url, dynamodb_url)
        )
        report = await run_chaos(options, tmp_path / "stack")
    assert report.problems() == []
    assert report.holds
    assert report.verdict.answered >= JOBS
    assert (dict(report.faults), dict(report.strikes)) == ({}, {})
    assert set(report.verdict.dead_lettered) <= {"bad_request", "unknown_user"}  # nothing but what must fail
