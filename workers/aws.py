"""Clients of SQS and DynamoDB: one place for how this service calls AWS.

Region, credentials and endpoints come from the standard places (`AWS_REGION`, `AWS_PROFILE`, instance metadata,
`AWS_ENDPOINT_URL_SQS` and so on): the SDK's own chain, nothing added. Everything else is fixed here:

- tries: one retry owner per call. The engine owns the tries of SQS; where the SDK owns them, the caller says how many.
- `parameter_validation` off and a fixed user agent: a fifth of the CPU of a call; our own types check what is sent.
- clients of one try take a shorter way for the few operations that every job needs: see `workers.hot_calls`.
- the connection pool is as large as the calls that may be in flight, else they queue behind a long poll unseen.
"""

import contextlib
from collections.abc import AsyncGenerator, Generator
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import InvalidConfigError

from workers.hot_calls import shorten_hot_calls

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_sqs import SQSClient

USER_AGENT: Final = f"nitro-signer/{version('nitro-signer')}"

_CONNECT_TIMEOUT_S: Final = 5.0
_KEEPALIVE_S: Final = 60.0
"""Idle connections are closed before AWS's load balancers do it."""


def client_config(*, connections: int, read_timeout_s: float, tries: int) -> AioConfig:
    """Return the settings of a client.

    Args:
        connections: how many calls may be in flight at once.
        read_timeout_s: how long AWS may be silent; for SQS more than its long polling takes.
        tries: of the SDK for one call, the first included; 1 when the caller tries again by itself.
    """
    return AioConfig(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        max_pool_connections=connections,
        parameter_validation=False,
        retries={"mode": "standard", "total_max_attempts": tries},
        user_agent=USER_AGENT,
        connector_args={"keepalive_timeout": _KEEPALIVE_S},
    )


@contextlib.asynccontextmanager
async def sqs_client(
    session: AioSession, *, connections: int, read_timeout_s: float, tries: int = 1
) -> AsyncGenerator["SQSClient", None]:
    """Open an SQS client, and close it at the end. The engine's own needs `tries` 1.

    Raises:
        BotoCoreError: the SDK's configuration cannot be used.
    """
    config = client_config(connections=connections, read_timeout_s=read_timeout_s, tries=tries)
    shorten_hot_calls(session)
    async with contextlib.AsyncExitStack() as stack:
        with _wrong_endpoint():
            client = await stack.enter_async_context(session.create_client("sqs", config=config))
        yield client


@contextlib.asynccontextmanager
async def dynamodb_client(
    session: AioSession, *, connections: int, read_timeout_s: float, tries: int
) -> AsyncGenerator["DynamoDBClient", None]:
    """Open a DynamoDB client, and close it at the end.

    Raises:
        BotoCoreError: the SDK's configuration cannot be used.
    """
    config = client_config(connections=connections, read_timeout_s=read_timeout_s, tries=tries)
    shorten_hot_calls(session)
    async with contextlib.AsyncExitStack() as stack:
        with _wrong_endpoint():
            client = await stack.enter_async_context(session.create_client("dynamodb", config=config))
        yield client


@contextlib.contextmanager
def _wrong_endpoint() -> Generator[None, None, None]:
    """Make an error of the SDK's family out of the ValueError that it raises for a bad `AWS_ENDPOINT_URL`."""
    try:
        yield
    except ValueError as error:
        raise InvalidConfigError(error_msg=str(error)) from error
