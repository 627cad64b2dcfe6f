"""Items of concurrent callers, collected for shared calls: flushed by count, by bytes or after a short wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from protocol.errors import ErrorCode, SignerError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_NO_BYTES: Final = 0

log = structlog.get_logger()


def _weightless(_: object) -> int:
    return _NO_BYTES


class Collector(Generic[ItemT, ResultT]):
    """Bounded by its callers, each of which waits for its items. The calls run in `group`.

    Args:
        call: takes 1 to `max_items` items and returns a result for each, in their order. A `SignerError` that it raises
            is the result of each of them.
        group: parent of the calls; it must outlive the callers.
        max_items: of one call.
        wait_s: how long an item waits for others.
        max_bytes: of one call, by `weigh`; an item over it becomes `frame_too_large` and is not called.
        weigh: size of an item.
    """

    def __init__(
        self,
        call: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | SignerError]]],
        group: asyncio.TaskGroup,
        *,
        max_items: int,
        wait_s: float,
        max_bytes: int = _NO_BYTES,
        weigh: Callable[[ItemT], int] = _weightless,
    ) -> None:
        self._call = call
        self._group = group
        self._max_items = max_items
        self._wait_s = wait_s
        self._max_bytes = max_bytes
        self._weigh = weigh
        self._pending: list[tuple[ItemT, asyncio.Future[ResultT | SignerError]]] = []
        self._pending_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, items: Sequence[ItemT]) -> list[ResultT | SignerError]:
        """Return a result for each item, in their order. Cancelling it leaves the calls of others alone."""
        results = [self._add(item) for item in items]
        return [await result for result in results]

    def _add(self, item: ItemT) -> asyncio.Future[ResultT | SignerError]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[ResultT | SignerError] = loop.create_future()
        size = self._weigh(item)
        if size > self._max_bytes:
            result.set_result(SignerError(ErrorCode.FRAME_TOO_LARGE))
            return result
        if self._pending_bytes + size > self._max_bytes:
            self._flush()
        self._pending.append((item, result))
        self._pending_bytes += size
        if len(self._pending) == self._max_items:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._flush)
        return result

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._pending, self._pending_bytes = self._pending, [], _NO_BYTES
        self._group.create_task(self._run(batch), name="collected call")

    async def _run(self, batch: list[tuple[ItemT, asyncio.Future[ResultT | SignerError]]]) -> None:
        results: Sequence[ResultT | SignerError] = [SignerError(ErrorCode.INTERNAL)] * len(batch)
        try:
            answered = await self._call([item for item, _ in batch])
            if len(answered) == len(batch):
                results = answered
            else:
                log.critical("collected_call_miscounted", count=len(batch), found=len(answered))
        except SignerError as error:
            results = [error] * len(batch)
        except Exception as error:  # a bug met by one call must not end the others
            log.critical("collected_call_failed", exc_info=error, count=len(batch))
        finally:  # cancelled, too: nobody waits for ever
            for (_, waiting), result in zip(batch, results, strict=True):
                if not waiting.done():
                    waiting.set_result(result)
