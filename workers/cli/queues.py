"""SQS for commands: a client whose failures end the command with one line."""

import contextlib
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Final

from workers.cli.aws_errors import aws_or_fail
from workers.cli.output import fail

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

    from config.engine import EngineSettings
    from config.worker import WorkerRole, WorkerSettings

_TRIES: Final = 3
_READ_TIMEOUT_S: Final = 30.0
"""More than the longest poll, which takes 20 s."""


def engines_of(settings: "WorkerSettings") -> "dict[WorkerRole, EngineSettings]":
    """Return the queue settings of the kinds of workers that a configuration has."""
    engines: dict[WorkerRole, EngineSettings] = {}
    if settings.generate is not None:
        engines["generate"] = settings.generate.engine
    if settings.sign is not None:
        engines["sign"] = settings.sign.engine
    return engines


@contextlib.asynccontextmanager
async def open_queues(command: str, region: str, *, connections: int = 1) -> AsyncGenerator["SQSClient", None]:
    """Open a client; what SQS or the way to it refuses becomes one line and exit code 2."""
    from aiobotocore.session import get_session

    from workers.aws import sqs_client

    session = get_session()
    session.set_config_variable("region", region)
    with aws_or_fail(command):
        async with sqs_client(session, connections=connections, read_timeout_s=_READ_TIMEOUT_S, tries=_TRIES) as client:
            yield client


@contextlib.contextmanager
def about(command: str, queue_url: str) -> Generator[None, None, None]:
    """Let a refusal of SQS say which queue it is about, and end the command with it."""
    from botocore.exceptions import ClientError

    from workers.queue.sqs import queue_name

    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        code = told.get("Code", "Unknown").removeprefix("AWS.SimpleQueueService.")
        fail(command, f"queue {queue_name(queue_url)}: {told.get('Message') or 'refused'} ({code})")
