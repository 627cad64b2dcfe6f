"""Items of concurrent callers, collected for shared calls: flushed by count, by bytes or after a short wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeAlias, TypeVar

import structlog

from protocol.errors import ErrorCode, SignerError
from protocol.tasks import start_in

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Call: TypeAlias = Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT]]]
"""Takes 1 to `max_items` items and returns a result for each, in their order."""

log = structlog.get_logger()


def no_bytes(_: object) -> int:
    """Weigh nothing: for items that are bounded by their count alone."""
    return 0


class _Submission(Generic[ResultT]):
    """Items that were submitted together: done when the last of them is."""

    __slots__ = ("_left", "done", "results")

    def __init__(self, count: int, at_first: ResultT) -> None:
        self.results = [at_first] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    def put(self, position: int, result: ResultT) -> None:
        self.results[position] = result
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


class Collector(Generic[ItemT, ResultT]):
    """Bounded by its callers, each of which waits for its items. The calls run in `group`.

    However the group ends, nobody waits for ever: items whose call failed, was cancelled or could not be begun any more
    become `failed`.

    Args:
        call: see `Call`.
        group: parent of the calls.
        max_items: of one call.
        wait_s: how long an item waits for others.
        max_bytes: of one call, by `weigh`.
        weigh: size of an item.
        too_large: result of an item over `max_bytes`, which is not called.
        failed: see above.
    """

    def __init__(
        self,
        call: Call[ItemT, ResultT],
        group: asyncio.TaskGroup,
        *,
        max_items: int,
        wait_s: float,
        max_bytes: int = 0,
        weigh: Callable[[ItemT], int] = no_bytes,
        too_large: ResultT,
        failed: ResultT,
    ) -> None:
        self._call = call
        self._group = group
        self._max_items = max_items
        self._wait_s = wait_s
        self._max_bytes = max_bytes
        self._weigh = weigh
        self._too_large = too_large
        self._failed = failed
        self._pending: list[tuple[ItemT, _Submission[ResultT], int]] = []
        self._pending_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be flushed."""
        return not self._pending

    async def submit(self, items: Sequence[ItemT]) -> Sequence[ResultT]:
        """Return a result for each item, in their order. Cancelling it leaves the items of others alone."""
        if not items:
            return []
        sizes = [self._weigh(item) for item in items]
        if len(items) == self._max_items and sum(sizes) <= self._max_bytes:
            return await self._called(items)  # a full call by itself: nothing to wait for, no task to make
        submission = _Submission(len(items), self._failed)
        for position, (item, size) in enumerate(zip(items, sizes, strict=True)):
            if size > self._max_bytes:
                submission.put(position, self._too_large)
            else:
                self._add(item, size, submission, position)
        if self._pending and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._flush)
        await submission.done
        return submission.results

    def _add(self, item: ItemT, size: int, submission: _Submission[ResultT], position: int) -> None:
        if self._pending_bytes + size > self._max_bytes:
            self._flush()
        self._pending.append((item, submission, position))
        self._pending_bytes += size
        if len(self._pending) == self._max_items:
            self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._pending, self._pending_bytes = self._pending, [], 0
        waiting = [(submission, position) for _, submission, position in batch]
        task = start_in(self._group, self._called([item for item, _, _ in batch]), name="collected call")
        if task is None:
            self._settle(waiting, None)
        else:
            task.add_done_callback(partial(self._settle, waiting))  # runs for one cancelled before its first step, too

    def _settle(
        self, waiting: Sequence[tuple[_Submission[ResultT], int]], task: asyncio.Task[Sequence[ResultT]] | None
    ) -> None:
        has_results = task is not None and not task.cancelled() and task.exception() is None
        results = task.result() if task is not None and has_results else [self._failed] * len(waiting)
        for (submission, position), result in zip(waiting, results, strict=True):
            submission.put(position, result)

    async def _called(self, items: Sequence[ItemT]) -> Sequence[ResultT]:
        try:
            results = await self._call(items)
        except Exception as error:  # a bug met by one call must not end the others
            log.critical("collected_call_failed", exc_info=error, count=len(items))
        else:
            if len(results) == len(items):
                return results
            log.critical("collected_call_miscounted", count=len(items), found=len(results))
        return [self._failed] * len(items)


def fallible_collector(
    call: Call[ItemT, ResultT | SignerError],
    group: asyncio.TaskGroup,
    *,
    max_items: int,
    wait_s: float,
    max_bytes: int = 0,
    weigh: Callable[[ItemT], int] = no_bytes,
) -> Collector[ItemT, ResultT | SignerError]:
    """Return a collector whose results may be errors. A `SignerError` that `call` raises is the result of each item.

    An item over `max_bytes` becomes `frame_too_large`, one whose call came to nothing `internal`.
    """

    async def answer(items: Sequence[ItemT]) -> Sequence[ResultT | SignerError]:
        try:
            return await call(items)
        except SignerError as error:
            return [error] * len(items)

    return Collector(
        answer,
        group,
        max_items=max_items,
        wait_s=wait_s,
        max_bytes=max_bytes,
        weigh=weigh,
        too_large=SignerError(ErrorCode.FRAME_TOO_LARGE),
        failed=SignerError(ErrorCode.INTERNAL),
    )
