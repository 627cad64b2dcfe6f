"""Entries of one kind of batch call, collected over all jobs: flushed by count, by bytes, or after milliseconds."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from config.engine import SQS_BATCH_ENTRIES
from workers.lifecycle import Event

EntryT = TypeVar("EntryT")

_FULL: Final = SQS_BATCH_ENTRIES


class _Submission:
    """Entries that were submitted together: done when the last of them is."""

    __slots__ = ("_left", "done", "events")

    def __init__(self, count: int) -> None:
        self.events = [Event.BROKE] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    def put(self, position: int, event: Event) -> None:
        self.events[position] = event
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


class Batcher(Generic[EntryT]):
    """Collects entries for one call on one queue.

    Bounded by its callers: each has a slot and waits for its entries. `call` takes up to ten entries and returns an
    event for each; it raises nothing. The calls run in `group`.
    """

    def __init__(
        self,
        call: Callable[[Sequence[EntryT]], Awaitable[Sequence[Event]]],
        group: asyncio.TaskGroup,
        *,
        flush_s: float,
        max_bytes: int = 0,
        weigh: Callable[[EntryT], int] | None = None,
    ) -> None:
        self._call = call
        self._group = group
        self._flush_s = flush_s
        self._max_bytes = max_bytes
        self._weigh = weigh
        self._pending: list[tuple[EntryT, _Submission, int]] = []
        self._pending_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be flushed."""
        return not self._pending

    async def submit(self, entries: Sequence[EntryT]) -> Sequence[Event]:
        """Have the entries called, and return an event for each. An entry over the byte limit is `UNDONE` uncalled."""
        sizes = [0] * len(entries) if self._weigh is None else [self._weigh(entry) for entry in entries]
        if len(entries) == _FULL and sum(sizes) <= self._max_bytes:
            return await self._call(entries)  # a full batch by itself: nothing to wait for, no task to make
        submission = _Submission(len(entries))
        for position, (entry, size) in enumerate(zip(entries, sizes, strict=True)):
            if size > self._max_bytes:
                submission.put(position, Event.UNDONE)
            else:
                self._add(entry, size, submission, position)
        if self._pending and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._flush)
        await submission.done
        return submission.events

    def _add(self, entry: EntryT, size: int, submission: _Submission, position: int) -> None:
        if self._pending_bytes + size > self._max_bytes:
            self._flush()
        self._pending.append((entry, submission, position))
        self._pending_bytes += size
        if len(self._pending) == _FULL:
            self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._pending, self._pending_bytes = self._pending, [], 0
        self._group.create_task(self._run(batch), name="batch call")

    async def _run(self, batch: list[tuple[EntryT, _Submission, int]]) -> None:
        events = await self._call([entry for entry, _, _ in batch])
        for (_, submission, position), event in zip(batch, events, strict=True):
            submission.put(position, event)
