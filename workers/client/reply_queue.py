"""The reply queue of one client: made and removed by it, or named in its settings."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from protocol.errors import ErrorCode
from workers.client.errors import NoAnswerError
from workers.client.settings import ClientSettings

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

VISIBILITY_TIMEOUT_S: Final = 30
"""A reply is taken off the queue within milliseconds of its receive."""

_RETENTION_S: Final = 3_600
"""A reply that nobody takes for an hour is nobody's."""

_NAME_BYTES: Final = 10


@contextlib.asynccontextmanager
async def own_reply_queue(sqs: "SQSClient", settings: ClientSettings) -> AsyncGenerator[str, None]:
    """Give the URL of a queue that nobody else reads; one that was made here is removed at the end.

    A client that is killed leaves its queue behind: its tag tells who made it.

    Raises:
        NoAnswerError: `queue_unavailable`, the queue cannot be made.
    """
    if settings.reply_queue_url is not None:
        yield settings.reply_queue_url
        return
    try:
        async with asyncio.timeout(settings.call_timeout_s):
            made = await sqs.create_queue(
                QueueName=f"{settings.reply_queue_prefix}{secrets.token_hex(_NAME_BYTES)}",
                Attributes={
                    "MessageRetentionPeriod": str(_RETENTION_S),
                    "VisibilityTimeout": str(VISIBILITY_TIMEOUT_S),
                },
                tags={"made-by": "nitro-signer-client"},
            )
    except ClientError as error:
        detail = f"a reply queue cannot be made ({error}); name one as reply_queue_url"
        raise NoAnswerError(ErrorCode.QUEUE_UNAVAILABLE, detail) from error
    except (BotoCoreError, OSError) as error:  # TimeoutError is an OSError
        detail = f"SQS cannot be reached: {str(error) or type(error).__name__}"
        raise NoAnswerError(ErrorCode.QUEUE_UNAVAILABLE, detail) from error
    try:
        yield made["QueueUrl"]
    finally:
        # It may be cancelled or fail: the queue is then left behind, and its tag says so.
        with contextlib.suppress(ClientError, BotoCoreError, OSError):
            async with asyncio.timeout(settings.call_timeout_s):
                await sqs.delete_queue(QueueUrl=made["QueueUrl"])
