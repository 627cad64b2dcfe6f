"""The items of a batch: each ends in a result or an error of its own, and none ends another."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from protocol.errors import ErrorCode, SignerError

Item = TypeVar("Item")
Value = TypeVar("Value")

_CONCURRENCY: Final = 32
"""Items of one batch that wait for KMS together: as many as there are connections to it."""

_log = structlog.get_logger()


async def each(
    items: Sequence[Item], work: Callable[[Item], Awaitable[Value]], *, timeout_s: float
) -> list[Value | SignerError]:
    """Work on all items together; return a value or an error for each, in their order."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    turn = asyncio.Semaphore(_CONCURRENCY)

    async def one(item: Item) -> Value | SignerError:
        try:
            async with asyncio.timeout_at(deadline), turn:
                return await work(item)
        except SignerError as error:
            return error
        except TimeoutError:
            return SignerError(ErrorCode.DEADLINE_EXCEEDED)
        except Exception as error:  # noqa: BLE001 - a bug met by one item must not end its neighbours
            _log.error("item_failed", error_type=type(error).__name__)
            return SignerError(ErrorCode.INTERNAL)

    if len(items) == 1:
        return [await one(items[0])]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
