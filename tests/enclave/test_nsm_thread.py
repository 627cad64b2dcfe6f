"""Blocking calls in one thread: order, deadline, cancellation, and what is left when a call hangs."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError, NsmErrorCode
from enclave.one_thread import CallTimeoutError, OneThread
from protocol.attestation import TrustRoot

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT_S = 0.05
LONG_S = 30.0


class Gate:
    """A blocking call that a test holds and lets go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> int:
        """Block until the gate is open."""
        self.entered.set()
        assert self.opened.wait(LONG_S)
        return threading.get_ident()

    async def until_entered(self) -> None:
        """Wait until the call is running."""
        await asyncio.to_thread(self.entered.wait, LONG_S)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Give a gate that is open when the test ends, so that no thread stays behind it."""
    held = Gate()
    yield held
    held.opened.set()


async def until_free(thread: OneThread[int]) -> None:
    """Wait until the thread takes calls again after an overdue one."""
    while True:
        try:
            await thread.run(lambda: 0)
        except CallTimeoutError:
            await asyncio.sleep(0)
        else:
            return


async def test_calls_run_one_at_a_time_in_one_other_thread() -> None:
    """Many concurrent callers share one thread, which is not the event loop's, and never overlap."""
    thread: OneThread[int] = OneThread("t", deadline_s=LONG_S)
    running = 0
    most = 0

    def call() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1
        return threading.get_ident()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(thread.run(call)) for _ in range(50)]
    idents = {task.result() for task in tasks}
    assert (len(idents), most) == (1, 1)
    assert threading.get_ident() not in idents
    thread.close()


async def test_the_calls_own_error_reaches_its_caller() -> None:
    """An error does not end the thread; a TimeoutError of the call is not mistaken for the deadline."""
    thread: OneThread[int] = OneThread("t", deadline_s=LONG_S)

    def fail() -> int:
        raise TimeoutError("the call's own")

    with pytest.raises(TimeoutError, match="the call's own"):
        await thread.run(fail)
    assert await thread.run(lambda: 7) == 7
    thread.close()


async def test_a_hanging_call_fails_later_ones_without_more_threads(gate: Gate) -> None:
    """After the deadline each caller gets a clear error, at once, and only one thread exists; then it recovers."""
    thread: OneThread[int] = OneThread("only-one", deadline_s=SHORT_S)
    with pytest.raises(CallTimeoutError, match="no result within"):
        await thread.run(gate)
    for _ in range(20):
        with pytest.raises(CallTimeoutError, match="an earlier call has not come back"):
            await thread.run(lambda: 0)
    assert [other.name for other in threading.enumerate()].count("only-one") == 1
    gate.opened.set()
    await until_free(thread)
    assert await thread.run(lambda: 7) == 7
    thread.close()


async def test_who_waits_for_its_turn_has_a_deadline_too(gate: Gate) -> None:
    """A caller behind a hanging call is not held longer than its own deadline."""
    thread: OneThread[int] = OneThread("t", deadline_s=SHORT_S)

    async def times_out(call: Gate) -> None:
        with pytest.raises(CallTimeoutError):
            await thread.run(call)

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(times_out(gate))
    thread.close()


async def test_a_call_that_hangs_without_its_caller_is_noticed(gate: Gate) -> None:
    """The hanging call's own caller is gone: the next one meets the deadline, and those after it fail at once."""
    thread: OneThread[int] = OneThread("t", deadline_s=SHORT_S)
    first = asyncio.ensure_future(thread.run(gate))
    await gate.until_entered()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(CallTimeoutError, match="no result within"):
        await thread.run(lambda: 0)
    with pytest.raises(CallTimeoutError, match="an earlier call has not come back"):
        await thread.run(lambda: 0)
    thread.close()


async def test_a_cancelled_callers_call_keeps_the_thread(gate: Gate) -> None:
    """The next caller waits for the abandoned call, then gets its own result: nothing overlaps, nothing is mixed up."""
    thread: OneThread[int] = OneThread("t", deadline_s=LONG_S)
    first = asyncio.ensure_future(thread.run(gate))
    await gate.until_entered()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(thread.run(lambda: 7))
    await asyncio.sleep(0)
    assert not second.done()
    gate.opened.set()
    assert await second == 7
    thread.close()


async def test_a_call_that_is_cancelled_before_it_starts_is_never_made() -> None:
    """Its turn passes on to the next."""
    thread: OneThread[int] = OneThread("t", deadline_s=LONG_S)
    made: list[int] = []

    def call() -> int:
        made.append(1)
        return 1

    # The future is cancelled in the queue, before the thread takes it out: there is no thread yet.
    thread._thread = threading.Thread(target=thread._work, daemon=True)
    first = asyncio.ensure_future(thread.run(call))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.sleep(0)
    thread._thread.start()
    assert await thread.run(lambda: 7) == 7
    assert made == []
    thread.close()


def test_a_loop_that_ends_before_its_call_is_no_error(gate: Gate) -> None:
    """A call that comes back after its loop is gone is dropped quietly."""
    thread: OneThread[int] = OneThread("t", deadline_s=SHORT_S)

    async def leave() -> None:
        with pytest.raises(CallTimeoutError):
            await thread.run(gate)

    asyncio.run(leave())
    gate.opened.set()
    thread.close()
    worker = thread._thread
    assert worker is not None
    worker.join(LONG_S)
    assert not worker.is_alive()


def test_nothing_starts_before_the_first_call() -> None:
    """An instance made before a fork carries no thread into it."""
    thread: OneThread[int] = OneThread("t", deadline_s=LONG_S)
    assert thread._thread is None


class HangingTransport:
    """A module that does not answer."""

    trust_root = TrustRoot(bytes(32))

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __call__(self, request: bytes) -> bytes:
        """Block until the test lets go, then answer nonsense."""
        self._gate()
        return request


async def test_a_hanging_module_is_a_timed_out_error(gate: Gate) -> None:
    """The code says TIMED_OUT for the request that hung and for those after it, and names the request."""
    nsm = Nsm(HangingTransport(gate), deadline_s=SHORT_S)
    for _ in range(3):
        with pytest.raises(NsmError, match="GetRandom") as caught:
            await nsm.random(1)
        assert caught.value.code == NsmErrorCode.TIMED_OUT
    nsm.close()


async def test_the_event_loop_goes_on_while_the_module_is_asked(gate: Gate) -> None:
    """Other tasks run during a blocking request."""
    nsm = Nsm(HangingTransport(gate), deadline_s=LONG_S)
    asked = asyncio.ensure_future(nsm.random(1))
    await gate.until_entered()
    assert not asked.done()
    gate.opened.set()
    with pytest.raises(NsmError):
        await asked
    nsm.close()
