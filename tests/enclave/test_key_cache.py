"""The cache of opened keys: its bounds, its exactness, one opening at a time, and cancellation of whoever opens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from config.enclave import KeyCacheSettings
from enclave.key_cache import KeyCache
from enclave.keypair import KeyPair
from protocol.messages import SealedRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable

RECORD = SealedRecord(statement=b"statement", sealed_key=b"sealed", encrypted_data_key=b"blob")


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Opener:
    """Opens keys when the test lets it, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self) -> KeyPair:
        """Open one."""
        self.count += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return KeyPair(self.count.to_bytes(32, "big"))


@pytest.fixture
def time() -> Time:
    """Give a clock."""
    return Time()


def cache(time: Time, *, max_entries: int = 10, ttl_s: float = 60.0, max_uses: int = 100) -> KeyCache:
    """Make a cache."""
    return KeyCache(KeyCacheSettings(max_entries=max_entries, ttl_s=ttl_s, max_uses=max_uses), time)


async def test_an_opened_key_is_found(time: Time) -> None:
    """The same object, without opening it again."""
    keys, opener = cache(time), Opener()
    assert keys.find("u", RECORD) is None
    key = await keys.open("u", RECORD, opener)
    assert keys.find("u", RECORD) is key
    assert (len(keys), keys.hits, keys.misses) == (1, 1, 1)


@pytest.mark.parametrize("part", ["statement", "sealed_key", "encrypted_data_key"])
async def test_an_entry_belongs_to_exact_bytes(time: Time, part: str) -> None:
    """One changed byte in any part misses, and so does another user with the same record."""
    keys = cache(time)
    await keys.open("u", RECORD, Opener())
    assert keys.find("u", RECORD.model_copy(update={part: b"other"})) is None
    assert keys.find("v", RECORD) is None


async def test_bytes_cannot_move_between_the_parts(time: Time) -> None:
    """The parts are compared one by one, not joined."""
    keys = cache(time)
    await keys.open("u", SealedRecord(statement=b"ab", sealed_key=b"c", encrypted_data_key=b""), Opener())
    assert keys.find("u", SealedRecord(statement=b"a", sealed_key=b"bc", encrypted_data_key=b"")) is None


async def test_time_to_live(time: Time) -> None:
    """To the moment, and gone from memory when it is over."""
    keys = cache(time, ttl_s=60.0)
    await keys.open("u", RECORD, Opener())
    time.now += 59.9
    assert keys.find("u", RECORD) is not None
    time.now += 0.1
    assert keys.find("u", RECORD) is None
    assert len(keys) == 0


async def test_expired_keys_leave_memory_without_being_asked_for(time: Time) -> None:
    """Otherwise the time to live would bound nothing."""
    keys = cache(time, ttl_s=60.0)
    await keys.open("old", RECORD, Opener())
    time.now += 30
    await keys.open("new", RECORD, Opener())
    time.now += 30
    keys.forget_expired()
    assert len(keys) == 1
    assert keys.find("new", RECORD) is not None


async def test_the_sweeper_forgets_until_it_is_cancelled(time: Time) -> None:
    """It runs once in each time to live."""
    keys = cache(time, ttl_s=0.001)
    await keys.open("u", RECORD, Opener())
    time.now += 1
    async with asyncio.TaskGroup() as group:
        sweeper = group.create_task(keys.sweep())
        while len(keys):  # noqa: ASYNC110 - the cache has no event for this
            await asyncio.sleep(0)
        sweeper.cancel()


async def test_number_of_uses(time: Time) -> None:
    """The first use is the one that opened it."""
    keys = cache(time, max_uses=3)
    await keys.open("u", RECORD, Opener())
    assert [keys.find("u", RECORD) is not None for _ in range(4)] == [True, True, False, False]


async def test_who_waits_for_an_opening_counts_as_a_use(time: Time) -> None:
    """A crowd may share one opening; after it the entry is used up."""
    keys, opener = cache(time, max_uses=3), Opener()
    opener.gate.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(keys.open("u", RECORD, opener))
        await asyncio.sleep(0)
        opener.gate.set()
    assert opener.count == 1
    assert keys.find("u", RECORD) is None


async def test_least_recently_used_goes_first(time: Time) -> None:
    """A use counts, not only an opening."""
    keys = cache(time, max_entries=2)
    await keys.open("a", RECORD, Opener())
    await keys.open("b", RECORD, Opener())
    assert keys.find("a", RECORD) is not None
    await keys.open("c", RECORD, Opener())
    assert [keys.find(user, RECORD) is not None for user in "abc"] == [True, False, True]


async def test_off_by_config(time: Time) -> None:
    """With 0 entries nothing is kept; those who come together still share one opening."""
    keys, opener = cache(time, max_entries=0), Opener()
    await keys.open("u", RECORD, opener)
    assert (keys.find("u", RECORD), len(keys)) == (None, 0)
    opener.gate.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(keys.open("u", RECORD, opener))
        await asyncio.sleep(0)
        opener.gate.set()
    assert opener.count == 2


async def test_a_failure_is_told_to_everybody_who_waited(time: Time) -> None:
    """And is not kept: the next one tries again."""
    keys, opener = cache(time), Opener()
    opener.gate.clear()
    opener.error = ValueError("no")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(keys.open("u", RECORD, opener))) for _ in range(3)]
        await asyncio.sleep(0)
        opener.gate.set()
    assert [task.result() for task in tasks] == ["no", "no", "no"]
    assert opener.count == 1
    opener.error = None
    await keys.open("u", RECORD, opener)
    assert len(keys) == 1


async def _outcome(opening: Awaitable[KeyPair]) -> str:
    try:
        await opening
    except ValueError as error:
        return str(error)
    return "opened"


@pytest.mark.parametrize("steps", range(6))
async def test_when_the_opener_is_cancelled_another_one_opens(time: Time, steps: int) -> None:
    """Who only waited is not cancelled with it, and the cache is whole afterwards."""
    keys, opener = cache(time), Opener()
    opener.gate.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(keys.open("u", RECORD, opener))
        others = [group.create_task(keys.open("u", RECORD, opener)) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        first.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        opener.gate.set()
    assert first.cancelled()
    assert len({id(task.result()) for task in others}) == 1
    assert len(keys) == 1
    assert not keys._opening


@pytest.mark.parametrize("steps", range(1, 4))
async def test_who_waits_can_be_cancelled_alone(time: Time, steps: int) -> None:
    """The opening goes on for the others."""
    keys, opener = cache(time), Opener()
    opener.gate.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(keys.open("u", RECORD, opener))
        second = group.create_task(keys.open("u", RECORD, opener))
        for _ in range(steps):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        opener.gate.set()
    assert second.cancelled()
    assert first.result() is keys.find("u", RECORD)


async def test_opener_and_waiter_cancelled_together(time: Time) -> None:
    """Neither is revived by the other."""
    keys, opener = cache(time), Opener()
    opener.gate.clear()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keys.open("u", RECORD, opener)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
    assert all(task.cancelled() for task in tasks)
    assert opener.count == 1
