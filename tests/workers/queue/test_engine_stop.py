"""Drain, stop, pause: nothing new is started, what runs may end, the rest goes back at once."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from workers.lifecycle import State
from workers.queue.gate import AllOpen

if TYPE_CHECKING:
    from tests.workers.queue.conftest import Fault, Rig

BASE = "https://sqs.eu-west-1.amazonaws.com/111122223333"
JOBS, FIFO_JOBS = f"{BASE}/sign", f"{BASE}/sign.fifo"


class Switch:
    """A gate with a handle."""

    def __init__(self, *, is_open: bool) -> None:
        self._open = asyncio.Event()
        if is_open:
            self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self._open.is_set()

    async def wait_open(self) -> None:
        """Wait for it."""
        await self._open.wait()

    def set(self, *, is_open: bool) -> None:
        """Turn it."""
        (self._open.set if is_open else self._open.clear)()


async def test_drain_deadline_releases_what_is_not_done(rig: "Rig") -> None:
    """Jobs that outlast the drain deadline are cancelled and visible again at once."""
    rig.put("s-1")
    rig.handler.plan("s-1", asyncio.Event())
    started = asyncio.get_running_loop().time()
    async with rig.running(drain_deadline_s=30, wait_time_s=5) as engine:
        await rig.until(lambda: rig.handler.running == 1)
        rig.stop.request()
    now = asyncio.get_running_loop().time()
    assert 30 <= now - started < 32
    (message,) = rig.sqs.queues[JOBS]
    assert message.visible_at <= now
    assert engine.status.settled == {State.RELEASED: 1}
    assert rig.handler.cancelled == 1


async def test_second_request_stops_at_once(rig: "Rig") -> None:
    """A second request cancels the handler and the long poll, and gives the job back, without the deadline."""
    rig.put("s-1")
    rig.handler.plan("s-1", asyncio.Event())
    async with rig.running() as engine:
        await rig.until(lambda: rig.handler.running == 1)
        rig.stop.request()
        rig.stop.request()
        asked_at = asyncio.get_running_loop().time()
    now = asyncio.get_running_loop().time()
    assert now - asked_at < 1
    assert rig.sqs.queues[JOBS][0].visible_at <= now
    assert engine.status.draining


async def test_drain_gives_waiting_jobs_of_a_group_back(rig: "Rig") -> None:
    """A drain starts nothing new: the running job of a group ends, those behind it go back unworked."""
    done = asyncio.Event()
    rig.put("a-1", "a-2", "a-3", url=FIFO_JOBS, group="a")
    rig.handler.plan("a-1", done)
    async with rig.running_fifo() as engine:
        await rig.until(lambda: rig.handler.running == 1)
        rig.stop.request()
        await rig.until(lambda: engine.status.settled == {State.RELEASED: 2})
        done.set()
    assert rig.handler.seen == ["a-1"]
    assert [message.message_id for message in rig.sqs.queues[FIFO_JOBS]] == ["m-1", "m-2"]


async def test_settlement_that_never_ends_is_abandoned(rig: "Rig", faults: "type[Fault]") -> None:
    """After a stop the last calls have `settle_timeout_s`; then the engine returns all the same."""
    rig.put("s-1")
    rig.handler.plan("s-1", asyncio.Event())
    rig.sqs.fail_next("change_message_visibility_batch", *[faults(delay_s=9.0)] * 3)
    async with rig.running(settle_timeout_s=5, call_timeout_s=10) as engine:
        await rig.until(lambda: rig.handler.running == 1)
        rig.stop.request()
        rig.stop.request()
        asked_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - asked_at == pytest.approx(5, abs=0.1)
    assert engine.status.in_flight == 1


async def test_closed_gate_stops_polling(rig: "Rig") -> None:
    """While the gate is closed nothing is received, messages stay on the queue; a drain ends the wait."""
    gate = Switch(is_open=False)
    rig.gate = AllOpen([gate, Switch(is_open=True)])
    rig.put("s-1")
    async with rig.running():
        await asyncio.sleep(60)
        assert rig.sqs.named("receive_message") == []
        gate.set(is_open=True)
        await rig.until_empty()
        gate.set(is_open=False)
    assert rig.answered() == ["s-1"]


async def test_gate_that_closes_during_a_poll_gives_its_messages_back(rig: "Rig") -> None:
    """A pause takes effect within seconds: a poll that was running brings nothing into work."""
    gate = Switch(is_open=True)
    rig.gate = gate
    async with rig.running():
        await rig.until(lambda: len(rig.sqs.named("receive_message")) == 1)
        gate.set(is_open=False)
        rig.put("s-1")
        await rig.until(lambda: len(rig.sqs.named("change_message_visibility_batch")) == 1)
        assert rig.handler.seen == []
        gate.set(is_open=True)
        await rig.until_empty()
    assert rig.answered() == ["s-1"]


async def test_gate_that_closes_while_slots_are_awaited_holds_the_poll(rig: "Rig") -> None:
    """The gate is looked at again after the wait for a slot, which may have been long."""
    gate = Switch(is_open=True)
    rig.gate = gate
    done = asyncio.Event()
    rig.put("s-1")
    rig.handler.plan("s-1", done)
    async with rig.running(slots=1, pollers=1) as engine:
        await rig.until(lambda: rig.handler.running == 1)
        await asyncio.sleep(1)
        gate.set(is_open=False)
        done.set()
        await rig.until(lambda: engine.status.in_flight == 0)
        await asyncio.sleep(60)
        assert len(rig.sqs.named("receive_message")) == 1
        gate.set(is_open=True)
        await rig.until(lambda: len(rig.sqs.named("receive_message")) == 2)
        assert engine.status.last_poll_age_s > 60


async def test_crash_of_the_engine_is_loud(rig: "Rig", monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of the engine itself ends it with an error, for the supervisor to see; it never limps on."""
    rig.put("s-1")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    engine = rig.build()
    monkeypatch.setattr(engine._ledger, "admit", broken)
    with pytest.raises(ExceptionGroup):
        await engine.run(rig.stop)
