"""The brakes: what is held never reaches an enclave, and a brake that cannot be read holds."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.worker import BrakeSettings
from protocol.errors import ErrorCode, SignerError
from protocol.messages import SealedRecord, SignItem
from protocol.model import USERID_PATTERN
from tests.workers.parent.scripted import ScriptedDynamoDb, client_error
from workers.brakes import BRAKE_KEY, PAUSE_ITEM, BrakedSigners, Freezes, PauseSwitch, RateLimit
from workers.keys.dynamodb import DynamoDbCalls

TABLE = "UserTokenFreeze"


class HandClock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Recorder:
    """Signers that only write down whom they are asked to sign for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def call(self, items: Sequence[SignItem]) -> list[Any]:
        """Answer each item with its user id."""
        self.asked += [item.userid for item in items]
        return [item.userid for item in items]


@pytest.fixture
def clock() -> HandClock:
    """A clock."""
    return HandClock()


@pytest.fixture
def db() -> ScriptedDynamoDb:
    """A table of brakes."""
    db = ScriptedDynamoDb()
    db.tables[TABLE], db.keys[TABLE] = {}, BRAKE_KEY
    return db


def calls_on(db: Any) -> DynamoDbCalls:
    """Calls that try once."""
    return DynamoDbCalls(db, call_timeout_s=5, tries=1)


def item(userid: str) -> SignItem:
    """A sign item of a user."""
    record = SealedRecord(statement=b"s", sealed_key=b"k", encrypted_data_key=b"d")
    return SignItem(userid=userid, record=record, message=b"m")


def codes(results: Sequence[object]) -> list[object]:
    """Errors by their codes, the rest as it is."""
    return [result.code if isinstance(result, SignerError) else result for result in results]


def test_no_user_is_called_like_the_switch() -> None:
    """The pause item is outside the alphabet of user ids, so that freezing a user can never pause all."""
    assert re.fullmatch(USERID_PATTERN, PAUSE_ITEM) is None


async def test_the_switch_is_closed_until_it_was_read(db: ScriptedDynamoDb, clock: HandClock) -> None:
    """Nothing is signed before it is known that nothing speaks against it."""
    switch = PauseSwitch(calls_on(db), TABLE, BrakeSettings(), clock)
    assert not switch.is_open
    db.faults = [client_error("InternalServerError")]
    await switch.look()
    assert not switch.is_open
    await switch.look()
    assert switch.is_open


async def test_an_operator_closes_and_opens_the_switch(db: ScriptedDynamoDb, clock: HandClock) -> None:
    """The next look after the item is put or deleted sees it; whoever waits goes on."""
    switch = PauseSwitch(calls_on(db), TABLE, BrakeSettings(pause_check_s=0.01), clock)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        reading = group.create_task(switch.run())
        await switch.wait_open()
        db.put(TABLE, {BRAKE_KEY: PAUSE_ITEM})
        while switch.is_open:  # noqa: ASYNC110 - a gate has no event for being closed
            await asyncio.sleep(0)
        del db.tables[TABLE][PAUSE_ITEM]
        await switch.wait_open()
        reading.cancel()


async def test_a_switch_that_cannot_be_read_for_long_counts_as_pulled(db: ScriptedDynamoDb, clock: HandClock) -> None:
    """A short failure changes nothing; a long one closes the gate, and the next good look opens it."""
    switch = PauseSwitch(calls_on(db), TABLE, BrakeSettings(max_blind_s=30), clock)
    await switch.look()
    db.faults = [client_error("InternalServerError") for _ in range(2)]
    clock.now += 29
    await switch.look()
    seen = [switch.is_open]
    clock.now += 2
    for _ in range(2):
        await switch.look()
        seen.append(switch.is_open)
    assert seen == [True, False, True]


async def test_a_frozen_user_is_refused_and_no_other(db: ScriptedDynamoDb, clock: HandClock) -> None:
    """`frozen` for the one, signatures for the others, each in its place; the frozen item never gets to an enclave."""
    db.put(TABLE, {BRAKE_KEY: "cold"})
    signers = Recorder()
    async with asyncio.TaskGroup() as group:
        braked = BrakedSigners(signers, Freezes(calls_on(db), TABLE, 5, group, clock), None)
        results = await braked.call([item("a"), item("cold"), item("b"), item("cold")])
    assert codes(results) == ["a", ErrorCode.FROZEN, "b", ErrorCode.FROZEN]
    assert signers.asked == ["a", "b"]


async def test_a_freeze_and_its_end_are_seen_after_the_cache_time(db: ScriptedDynamoDb, clock: HandClock) -> None:
    """Within it nothing is read again, and both answers are kept no longer."""
    async with asyncio.TaskGroup() as group:
        freezes = Freezes(calls_on(db), TABLE, 5, group, clock)
        assert await freezes.holding(["u"]) == {}
        db.put(TABLE, {BRAKE_KEY: "u"})
        clock.now += 4.9
        assert await freezes.holding(["u"]) == {}
        assert len(db.calls) == 1
        clock.now += 0.2
        assert codes(list((await freezes.holding(["u"])).values())) == [ErrorCode.FROZEN]
        del db.tables[TABLE]["u"]
        assert list(await freezes.holding(["u"])) == ["u"]
        clock.now += 5
        assert await freezes.holding(["u"]) == {}


async def test_a_user_whose_freeze_cannot_be_read_is_not_signed_for(db: ScriptedDynamoDb, clock: HandClock) -> None:
    """Neither when the call fails nor when the key stays unprocessed; those that were read are."""
    signers = Recorder()
    async with asyncio.TaskGroup() as group:
        braked = BrakedSigners(signers, Freezes(calls_on(db), TABLE, 5, group, clock), None)
        db.faults = [client_error("InternalServerError")]
        assert codes(await braked.call([item("a")])) == [ErrorCode.STORE_UNAVAILABLE]
        db.faults = [1]
        results = codes(await braked.call([item("a"), item("b")]))
    assert results in ([ErrorCode.STORE_UNAVAILABLE, "b"], ["a", ErrorCode.STORE_UNAVAILABLE])
    assert len(signers.asked) == 1


async def test_a_user_over_the_limit_is_told_to_come_again(clock: HandClock) -> None:
    """`rate_limited`, which is retryable; other users are not slowed down, and time brings signatures back."""
    signers = Recorder()
    braked = BrakedSigners(signers, None, RateLimit(2, 3, clock))
    results = await braked.call([item("busy")] * 4 + [item("calm")])
    assert codes(results) == ["busy", "busy", "busy", ErrorCode.RATE_LIMITED, "calm"]
    assert ErrorCode.RATE_LIMITED.retryable
    clock.now += 0.5
    assert codes(await braked.call([item("busy")] * 2)) == ["busy", ErrorCode.RATE_LIMITED]


async def test_without_brakes_everything_passes() -> None:
    """No table and no limit: the enclaves alone decide."""
    assert codes(await BrakedSigners(Recorder(), None, None).call([item("a"), item("a")])) == ["a", "a"]


@given(
    steps=st.lists(st.tuples(st.floats(0, 5), st.sampled_from("ab")), max_size=60),
    per_s=st.floats(0.1, 10),
    burst=st.integers(1, 5),
)
def test_no_user_ever_gets_more_than_burst_and_rate(steps: list[tuple[float, str]], per_s: float, burst: int) -> None:
    """Over any time t from the start at most burst + rate * t signatures of one user."""
    clock = HandClock()
    limit = RateLimit(per_s, burst, clock)
    taken = {"a": 0, "b": 0}
    for pause_s, userid in steps:
        clock.now += pause_s
        taken[userid] += limit.take(userid)
        assert taken[userid] <= burst + per_s * (clock.now - 100.0) + 1e-6


async def test_what_is_remembered_is_bounded(
    db: ScriptedDynamoDb, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more users than the limit the least used are forgotten: read again, or given a full bucket."""
    monkeypatch.setattr("workers.brakes._MAX_USERS", 2)
    limit = RateLimit(1, 1, clock)
    assert [limit.take(userid) for userid in ("a", "b", "c", "c", "a")] == [True, True, True, False, True]
    async with asyncio.TaskGroup() as group:
        freezes = Freezes(calls_on(db), TABLE, 5, group, clock)
        for userid in ("a", "b", "c", "c", "a"):
            await freezes.holding([userid])
    assert len(db.calls) == 4
