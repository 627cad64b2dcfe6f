"""The clock against attested time: left alone, corrected, or reported, and never trusted blindly."""

from __future__ import annotations

import asyncio
import time as system_time
from typing import TYPE_CHECKING

import pytest
import structlog

from config.enclave import ClockSettings
from enclave import attested_clock as attested_clock_module
from enclave.attested_clock import AttestedClock, ClockSetter, set_system_clock
from enclave.credentials import CredentialStore
from enclave.readiness import Readiness
from tests.enclave.parts import Switch, Time, captured, make_nsm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave.nsm import Nsm


class Clocks:
    """The hypervisor's time, and the enclave's own, which can be set."""

    def __init__(self) -> None:
        self.attested = Time()
        self.own = Time()
        self.switch = Switch(self.attested)
        self.nsm: Nsm = make_nsm(self.switch)
        self.readiness = Readiness(CredentialStore(self.own))
        self.settings: list[float] = []

    def set(self, time_s: float) -> None:
        """Set the enclave's clock."""
        self.settings.append(time_s)
        self.own.now = time_s

    def watcher(self, setter: ClockSetter | None) -> AttestedClock:
        """Make one."""
        return AttestedClock(self.nsm, ClockSettings(max_drift_s=60.0), self.own, setter)


@pytest.fixture
def clocks() -> Iterator[Clocks]:
    """Give both clocks, equal at first."""
    made = Clocks()
    yield made
    made.nsm.close()


async def test_a_small_offset_is_left_alone(clocks: Clocks) -> None:
    """Reading takes milliseconds; chasing them would only make noise."""
    clocks.own.now -= 0.5
    await clocks.watcher(clocks.set).check(clocks.readiness)
    assert (clocks.settings, clocks.readiness.is_clock_off) == ([], False)


@pytest.mark.parametrize("offset_s", [-4000.0, -2.0, 2.0, 4000.0])
async def test_a_larger_one_is_corrected(clocks: Clocks, offset_s: float) -> None:
    """In either direction."""
    clocks.own.now -= offset_s
    with structlog.testing.capture_logs() as log:
        await clocks.watcher(clocks.set).check(clocks.readiness)
    assert clocks.own.now == pytest.approx(clocks.attested.now)
    assert not clocks.readiness.is_clock_off
    assert captured(log) == ["clock_set"]


@pytest.mark.parametrize(("offset_s", "is_off"), [(59.0, False), (-61.0, True), (61.0, True)])
async def test_where_the_clock_is_not_ours_to_set(clocks: Clocks, offset_s: float, is_off: bool) -> None:  # noqa: FBT001
    """Beyond the bound the enclave takes no work; when the offset is gone, it does again."""
    clocks.own.now -= offset_s
    watcher = clocks.watcher(None)
    await watcher.check(clocks.readiness)
    assert clocks.readiness.is_clock_off == is_off
    clocks.own.now += offset_s
    await watcher.check(clocks.readiness)
    assert not clocks.readiness.is_clock_off


async def test_a_clock_that_cannot_be_set(clocks: Clocks) -> None:
    """The kernel refuses: said, and judged as it stands."""

    def refuse(_: float) -> None:
        raise PermissionError

    clocks.own.now -= 100
    with structlog.testing.capture_logs() as log:
        await clocks.watcher(refuse).check(clocks.readiness)
    assert clocks.readiness.is_clock_off
    assert captured(log) == ["clock_not_settable", "clock_drift"]


async def test_a_module_that_does_not_answer(clocks: Clocks) -> None:
    """Nothing is known, so nothing is changed."""
    clocks.own.now -= 1000
    clocks.readiness.is_clock_off = True
    clocks.switch.is_broken = True
    with structlog.testing.capture_logs() as log:
        await clocks.watcher(clocks.set).check(clocks.readiness)
    assert (clocks.readiness.is_clock_off, clocks.settings) == (True, [])
    assert captured(log) == ["clock_check_failed"]


async def test_watching_checks_again_and_again(clocks: Clocks) -> None:
    """At each interval, until it is cancelled."""
    watcher = AttestedClock(
        clocks.nsm, ClockSettings.model_construct(max_drift_s=60.0, check_interval_s=0.001), clocks.own, clocks.set
    )
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watcher.watch(clocks.readiness))
        while clocks.switch.requests < 3:  # noqa: ASYNC110 - the module has no event for this
            await asyncio.sleep(0.001)
        watching.cancel()


async def test_a_failed_check_is_made_again_soon(clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after an hour: a clock that was never compared may be off by anything."""
    monkeypatch.setattr(attested_clock_module, "_LOOK_AGAIN_S", 0.001)
    clocks.own.now -= 1000
    clocks.switch.is_broken = True
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(clocks.watcher(None).watch(clocks.readiness))
        while clocks.switch.requests < 3:  # noqa: ASYNC110 - the module has no event for this
            await asyncio.sleep(0.001)
        clocks.switch.is_broken = False
        while not clocks.readiness.is_clock_off:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.001)
        watching.cancel()


def test_the_system_clock_is_set_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_REALTIME, in seconds."""
    calls: list[tuple[int, float]] = []
    monkeypatch.setattr(system_time, "clock_settime", lambda which, time_s: calls.append((which, time_s)))
    set_system_clock(1234.5)
    assert calls == [(system_time.CLOCK_REALTIME, 1234.5)]
