"""The collector: items of many callers in few calls, each caller getting its own results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, SignerError
from tests.workers.parent.scripted import until
from workers.collector import Collector

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
        collector = Collector(doubler.call, group, max_items=100, wait_s=0)
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
            collector = Collector(
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
        collector = Collector(doubler.call, group, max_items=2, wait_s=0)
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
        collector = Collector(call, group, max_items=2, wait_s=0)
        failed = await collector.submit([0, 1])
        assert [error.code for error in failed if isinstance(error, SignerError)] == [code, code]
        assert await collector.submit([1, 2]) == [1, 2]


async def test_a_wrong_number_of_results_answers_nobody_wrongly() -> None:
    """Results that cannot be told apart are given to nobody."""

    async def call(items: Sequence[int]) -> Sequence[int | SignerError]:
        return items[1:]

    async with asyncio.TaskGroup() as group:
        results = await Collector(call, group, max_items=2, wait_s=0).submit([1, 2])
    assert [result.code for result in results if isinstance(result, SignerError)] == [ErrorCode.INTERNAL] * 2


async def test_ended_calls_leave_nobody_waiting() -> None:
    """Who waits for a call that is cancelled gets an error."""
    doubler = Doubler()
    doubler.hold.clear()
    waiting: list[asyncio.Task[list[int | SignerError]]] = []

    async def call_for_ever(callers: asyncio.TaskGroup) -> None:
        async with asyncio.TaskGroup() as calls:
            waiting.append(callers.create_task(Collector(doubler.call, calls, max_items=1, wait_s=0).submit([1])))
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as callers:
        calling = callers.create_task(call_for_ever(callers))
        await until(lambda: doubler.calls)
        calling.cancel()
    (result,) = waiting[0].result()
    assert isinstance(result, SignerError)
