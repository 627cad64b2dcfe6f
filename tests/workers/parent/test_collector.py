"""The collector: items of many callers in few calls, each caller getting its own results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, SignerError
from tests.workers.parent.scripted import LONG_S, until
from workers.collector import Collector, fallible_collector
from workers.lifecycle import Event
from workers.queue.sqs import entry_collector

if TYPE_CHECKING:
    from collections.abc import Sequence


class Doubler:
    """Doubles numbers; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def call(self, items: Sequence[int]) -> Sequence[int | SignerError]:
        """Answer when the test lets it."""
        self.calls.append(list(items))
        await self.hold.wait()
        return [2 * item for item in items]


async def test_concurrent_callers_share_a_call() -> None:
    """What comes within the wait goes together, and each gets its own results in its own order."""
    doubler = Doubler()
    async with asyncio.TaskGroup() as group:
        collector = fallible_collector(doubler.call, group, max_items=100, wait_s=0)
        callers = [group.create_task(collector.submit([n, n + 10])) for n in range(3)]
    assert [caller.result() for caller in callers] == [[0, 20], [2, 22], [4, 24]]
    assert doubler.calls == [[0, 10, 1, 11, 2, 12]]


@given(
    batches=st.lists(st.lists(st.integers(0, 9), max_size=7), max_size=7),
    max_items=st.integers(1, 5),
    max_bytes=st.integers(0, 20),
)
def test_no_call_is_over_a_limit_and_no_item_is_lost(batches: list[list[int]], max_items: int, max_bytes: int) -> None:
    """Whatever comes: calls within count and bytes, every item answered once, those too large by their code."""

    async def run() -> None:
        doubler = Doubler()
        async with asyncio.TaskGroup() as group:
            collector = fallible_collector(
                doubler.call, group, max_items=max_items, wait_s=0, max_bytes=max_bytes, weigh=lambda item: item
            )
            callers = [group.create_task(collector.submit(batch)) for batch in batches]
        assert all(0 < len(call) <= max_items and sum(call) <= max_bytes for call in doubler.calls)
        for batch, caller in zip(batches, callers, strict=True):
            for item, result in zip(batch, caller.result(), strict=True):
                if item <= max_bytes:
                    assert result == 2 * item
                else:
                    assert isinstance(result, SignerError)
                    assert result.code is ErrorCode.FRAME_TOO_LARGE

    asyncio.run(run())


async def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    """The call goes on for those who still wait."""
    doubler = Doubler()
    doubler.hold.clear()
    async with asyncio.TaskGroup() as group:
        collector = fallible_collector(doubler.call, group, max_items=2, wait_s=0)
        impatient = group.create_task(collector.submit([1]))
        patient = group.create_task(collector.submit([2]))
        await until(lambda: doubler.calls)
        impatient.cancel()
        doubler.hold.set()
    assert impatient.cancelled()
    assert patient.result() == [4]


@pytest.mark.parametrize(
    ("raised", "code"),
    [(SignerError(ErrorCode.STORE_UNAVAILABLE), ErrorCode.STORE_UNAVAILABLE), (KeyError("x"), ErrorCode.INTERNAL)],
)
async def test_a_failed_call_fails_its_items_alone(raised: Exception, code: ErrorCode) -> None:
    """An error is a value for each item; a bug is `internal`, and the next call works."""

    async def call(items: Sequence[int]) -> Sequence[int | SignerError]:
        if 0 in items:
            raise raised
        return items

    async with asyncio.TaskGroup() as group:
        collector = fallible_collector(call, group, max_items=2, wait_s=0)
        failed = await collector.submit([0, 1])
        assert [error.code for error in failed if isinstance(error, SignerError)] == [code, code]
        assert await collector.submit([1, 2]) == [1, 2]


async def test_a_wrong_number_of_results_answers_nobody_wrongly() -> None:
    """Results that cannot be told apart are given to nobody."""

    async def call(items: Sequence[int]) -> Sequence[int | SignerError]:
        return items[1:]

    async with asyncio.TaskGroup() as group:
        results = await fallible_collector(call, group, max_items=2, wait_s=0).submit([1, 2])
    assert [result.code for result in results if isinstance(result, SignerError)] == [ErrorCode.INTERNAL] * 2


async def test_entries_of_several_submitters_share_calls() -> None:
    """Entries are called in batches of ten, filled over submitters; ten at once are a call of their own."""
    called: list[list[int]] = []

    async def call(entries: Sequence[int]) -> list[Event]:
        called.append(list(entries))
        return [Event.DONE if entry % 2 else Event.BROKE for entry in entries]

    async with asyncio.TaskGroup() as group:
        collector = entry_collector(call, group, wait_s=0.005)
        callers = [
            group.create_task(collector.submit(range(first, first + count)))
            for first, count in ((0, 4), (4, 4), (8, 4), (20, 10))
        ]
    assert sorted(called) == [list(range(10)), [10, 11], list(range(20, 30))]
    assert callers[2].result() == [Event.BROKE, Event.DONE, Event.BROKE, Event.DONE]
    assert collector.is_idle


async def test_an_entry_over_the_limit_is_refused_uncalled() -> None:
    """One entry that no batch can hold fails alone; the others are sent."""

    async def call(entries: Sequence[str]) -> list[Event]:
        return [Event.DONE] * len(entries)

    async with asyncio.TaskGroup() as group:
        collector = entry_collector(call, group, wait_s=0.005, max_bytes=10, weigh=len)
        assert await collector.submit(["x" * 11, "x"]) == [Event.UNDONE, Event.DONE]
        assert await collector.submit(["x" * 11]) == [Event.UNDONE]


async def test_nothing_submitted_is_answered_at_once() -> None:
    """No items are no call, and nothing to wait for."""
    doubler = Doubler()
    async with asyncio.TaskGroup() as group:
        assert await fallible_collector(doubler.call, group, max_items=2, wait_s=0).submit([]) == []
    assert doubler.calls == []


class Ending:
    """A collector whose group ends while others still wait for it."""

    def __init__(self) -> None:
        self.doubler = Doubler()
        self.collector: Collector[int, int | SignerError] | None = None
        self._end = asyncio.Event()

    async def run(self, *, max_items: int = 2, wait_s: float = 0) -> None:
        """Keep the group until `end`."""
        async with asyncio.TaskGroup() as calls:
            self.collector = fallible_collector(self.doubler.call, calls, max_items=max_items, wait_s=wait_s)
            await self._end.wait()

    async def submit(self, *items: int) -> list[ErrorCode | int]:
        """Submit; show errors by their codes."""
        await until(lambda: self.collector is not None)
        results = await cast("Collector[int, int | SignerError]", self.collector).submit(items)
        return [result.code if isinstance(result, SignerError) else result for result in results]

    def end(self) -> None:
        """Let the group end by itself."""
        self._end.set()


async def test_a_call_that_is_cancelled_leaves_nobody_waiting() -> None:
    """Who waits for a call of a group that aborts gets an error."""
    ending = Ending()
    ending.doubler.hold.clear()
    async with asyncio.TaskGroup() as callers:
        running = callers.create_task(ending.run())
        caller = callers.create_task(ending.submit(1, 2, 3))
        await until(lambda: ending.doubler.calls)
        running.cancel()
    assert caller.result() == [ErrorCode.INTERNAL] * 3


async def test_a_call_that_is_cancelled_before_its_first_step_leaves_nobody_waiting() -> None:
    """No line of such a call ever runs; those who wait for it are told all the same."""
    ending = Ending()
    async with asyncio.TaskGroup() as callers:
        running = callers.create_task(ending.run(max_items=3, wait_s=LONG_S))
        await until(lambda: ending.collector is not None)
        caller = callers.create_task(ending.submit(1, 2))
        await until(lambda: not cast("Collector[int, int | SignerError]", ending.collector).is_idle)
        running.cancel()  # it is told in the next turn of the loop, and the call, which is begun after it, in the same
        cast("Collector[int, int | SignerError]", ending.collector)._flush()
    assert caller.result() == [ErrorCode.INTERNAL] * 2
    assert ending.doubler.calls == []


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_timer_that_strikes_after_the_group_leaves_nobody_waiting(*, is_cancelled: bool) -> None:
    """Items that waited for others when the group ended are never called, and their callers learn it."""
    ending = Ending()
    async with asyncio.TaskGroup() as callers:
        running = callers.create_task(ending.run(max_items=3, wait_s=0.05))
        caller = callers.create_task(ending.submit(1))
        await until(lambda: ending.collector is not None and not ending.collector.is_idle)
        running.cancel() if is_cancelled else ending.end()
    assert caller.result() == [ErrorCode.INTERNAL]
    assert ending.doubler.calls == []


async def test_a_timer_that_strikes_while_the_group_aborts_leaves_nobody_waiting() -> None:
    """A group that waits for a task which takes its time to end takes no calls any more."""
    ending, is_struck = Ending(), asyncio.Event()

    async def end_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await is_struck.wait()

    async def run() -> None:
        async with asyncio.TaskGroup() as calls:
            calls.create_task(end_slowly())
            ending.collector = fallible_collector(ending.doubler.call, calls, max_items=3, wait_s=0.05)
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as callers:
        running = callers.create_task(run())
        caller = callers.create_task(ending.submit(1))
        await until(lambda: ending.collector is not None and not ending.collector.is_idle)
        running.cancel()
        assert await caller == [ErrorCode.INTERNAL]
        assert not running.done()
        is_struck.set()
    assert ending.doubler.calls == []


async def test_who_comes_after_the_group_is_told() -> None:
    """A collector outlives its group without harm, whether a full call or a timer begins the next one."""
    ending = Ending()
    async with asyncio.TaskGroup() as callers:
        callers.create_task(ending.run())
        await until(lambda: ending.collector is not None)
        ending.end()
    assert await ending.submit(1) == [ErrorCode.INTERNAL]
    assert await ending.submit(1, 2, 3) == [ErrorCode.INTERNAL] * 3
    assert ending.doubler.calls == []
