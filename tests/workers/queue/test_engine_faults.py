"""SQS that refuses, throttles, loses answers and forgets handles: nothing is lost, nothing settled twice."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from protocol.errors import ErrorCode
from workers.lifecycle import State
from workers.queue.outcome import Failed

if TYPE_CHECKING:
    from tests.workers.queue.conftest import Fault, Rig

Failure = Callable[[ErrorCode], Failed]
BASE = "https://sqs.eu-west-1.amazonaws.com/111122223333"
JOBS, DEAD = f"{BASE}/sign", f"{BASE}/sign-dlq"


async def test_polls_back_off_while_the_queue_fails(rig: "Rig", faults: "type[Fault]") -> None:
    """Pauses between failing receives double up to the cap, with jitter; the first success resets them."""
    rig.sqs.fail_next("receive_message", *[faults(code="AWS.SimpleQueueService.NonExistentQueue")] * 12)
    rig.put("s-1")
    async with rig.running(pollers=1, receive_backoff_cap_s=8):
        await rig.until_empty()
    times = [call.at for call in rig.sqs.named("receive_message")][:13]
    gaps = [round(later - earlier, 1) for earlier, later in itertools.pairwise(times)]
    assert gaps == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]


async def test_drain_ends_a_back_off(rig: "Rig", faults: "type[Fault]") -> None:
    """A drain does not wait for the pause after an error."""
    rig.sqs.fail_next("receive_message", *[faults(code="InternalError")] * 100)
    async with rig.running(pollers=1):
        await asyncio.sleep(100)
        rig.stop.request()
        asked_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - asked_at < 0.1


async def test_receive_whose_answer_is_lost_only_delays(rig: "Rig", faults: "type[Fault]") -> None:
    """Messages whose receive was cut come again after their visibility timeout."""
    rig.put("s-1")
    rig.sqs.fail_next("receive_message", faults(lost=True))
    async with rig.running():
        await rig.until_empty()
    assert rig.answered() == ["s-1"]


@pytest.mark.parametrize("name", ["receive_message", "send_message_batch", "delete_message_batch"])
async def test_what_the_sdk_lets_through_is_a_failed_call(rig: "Rig", faults: "type[Fault]", name: str) -> None:
    """Sources of credentials and parsers raise errors that are not the SDK's own: the engine works on."""
    rig.put("s-1")
    rig.sqs.fail_next(name, faults(raises=RuntimeError("the refreshed credentials are still expired")))
    async with rig.running() as engine:
        await rig.until_empty()
        await rig.until(lambda: engine.status.in_flight == 0)
    assert rig.answered() == ["s-1"]


@pytest.mark.parametrize("name", ["send_message_batch", "delete_message_batch"])
async def test_answer_lost_after_success_is_harmless(rig: "Rig", faults: "type[Fault]", name: str) -> None:
    """A call that succeeded unseen is made again: at worst a second, equal reply."""
    rig.put("s-1")
    rig.sqs.fail_next(name, faults(lost=True))
    async with rig.running() as engine:
        await rig.until_empty()
        await rig.until(lambda: engine.status.in_flight == 0)
    assert set(rig.answered()) == {"s-1"}
    assert engine.status.settled == {State.DELETED: 1}
    assert len(rig.sqs.named(name)) == 2


async def test_entry_in_neither_list_is_not_done(rig: "Rig", monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that SQS mentions nowhere counts as failed, and is tried again."""
    rig.put("s-1")
    send = rig.sqs.send_message_batch
    answers: Iterator[object] = iter([{}])

    async def forgetful(**request: object) -> object:
        answer = await send(**request)
        return next(answers, answer)

    monkeypatch.setattr(rig.sqs, "send_message_batch", forgetful)
    async with rig.running():
        await rig.until_empty()
    assert rig.answered() == ["s-1", "s-1"]


async def test_reply_that_is_not_taken_releases_the_job(rig: "Rig", faults: "type[Fault]") -> None:
    """No reply, no delete: after its tries the job is released with back-off, and answered later."""
    rig.put("s-1")
    rig.sqs.fail_next("send_message_batch", *[faults(code="InternalError")] * 3)
    async with rig.running() as engine:
        await rig.until_empty()
    assert engine.status.settled == {State.RELEASED: 1, State.DELETED: 1}
    assert rig.handler.seen == ["s-1", "s-1"]
    assert rig.answered() == ["s-1"]


async def test_reply_never_taken_ends_in_the_dead_letter_queue(rig: "Rig", faults: "type[Fault]") -> None:
    """On its last receive a job whose reply cannot be delivered is copied with the reason, then deleted."""
    rig.put("s-1")
    rig.sqs.fail_next("send_message_batch", *[faults(code="AWS.SimpleQueueService.NonExistentQueue")] * 6)
    async with rig.running(max_receive_count=2):
        await rig.until_empty()
    (copy,) = rig.sqs.queues[DEAD]
    assert copy.attributes["error_code"]["StringValue"] == "internal"
    assert rig.answered() == []


async def test_copy_that_is_not_taken_releases_the_job(rig: "Rig", faults: "type[Fault]", failure: Failure) -> None:
    """A failed dead-letter copy never leads to a delete."""
    rig.put("s-1")
    rig.handler.plan("s-1", *[failure(ErrorCode.UNKNOWN_USER)] * 2)
    rig.sqs.fail_next("send_message_batch", faults(), *[faults(entries={0: ("InvalidMessageContents", True)})])
    async with rig.running() as engine:
        await rig.until_empty()
    assert engine.status.settled == {State.RELEASED: 1, State.DELETED: 1}
    assert len(rig.sqs.queues[DEAD]) == 1


async def test_delete_that_never_succeeds_lapses(rig: "Rig", faults: "type[Fault]") -> None:
    """After its tries a delete is given up: the message comes again and gets the same answer."""
    rig.put("s-1")
    rig.sqs.fail_next("delete_message_batch", *[faults(code="InternalError")] * 3)
    async with rig.running() as engine:
        await rig.until_empty()
    assert engine.status.settled == {State.LAPSED: 1, State.DELETED: 1}
    assert rig.answered() == ["s-1", "s-1"]


async def test_lost_heartbeat_drops_the_late_outcome(rig: "Rig", faults: "type[Fault]") -> None:
    """A handle that SQS no longer knows: the job's outcome is dropped, whoever has the message now answers."""
    rig.put("s-1")
    rig.handler.plan("s-1", 30.0)
    rig.sqs.fail_next("change_message_visibility_batch", faults(entries={0: ("ReceiptHandleIsInvalid", True)}))
    async with rig.running() as engine:
        await rig.until_empty()
    assert engine.status.settled == {State.LOST: 1, State.DELETED: 1}
    assert rig.answered() == ["s-1"]


async def test_heartbeat_that_fails_is_tried_again(rig: "Rig", faults: "type[Fault]") -> None:
    """One failed heartbeat leaves time for the next: the job is not lost."""
    rig.put("s-1")
    rig.handler.plan("s-1", 100.0)
    rig.sqs.fail_next("change_message_visibility_batch", faults(code="RequestThrottled"))
    async with rig.running() as engine:
        await rig.until_empty()
    assert engine.status.settled == {State.DELETED: 1}
    assert rig.handler.seen == ["s-1"]


async def test_visibility_that_runs_out_loses_the_job(rig: "Rig", faults: "type[Fault]") -> None:
    """When every heartbeat fails, nothing is done after the deadline: no reply, no delete, under the old handle."""
    rig.put("s-1")
    rig.handler.plan("s-1", 100.0)
    rig.sqs.fail_next("change_message_visibility_batch", *[faults(code="RequestThrottled")] * 9)
    async with rig.running() as engine:
        await rig.until(lambda: engine.status.settled.get(State.LOST) == 1)
        await rig.until_empty()
    assert len(rig.sqs.named("send_message_batch")) == 1


async def test_call_that_hangs_is_cut(rig: "Rig", faults: "type[Fault]") -> None:
    """A batch call past `call_timeout_s` counts as broken and is tried again."""
    rig.put("s-1")
    rig.sqs.fail_next("send_message_batch", faults(delay_s=1_000))
    async with rig.running(call_timeout_s=3):
        await rig.until_empty()
    assert rig.answered() == ["s-1"]


async def test_random_faults_lose_nothing(rig: "Rig", faults: "type[Fault]") -> None:
    """Two hundred jobs under a long run of mixed faults: each is answered at least once or dead-lettered."""
    jobs = [f"s-{i}" for i in range(200)]
    rig.put(*jobs)
    mixed = [
        faults(), faults(lost=True), faults(code="InternalError"), faults(entries={0: ("InternalError", False)}),
        faults(delay_s=2.0), faults(entries={1: ("ReceiptHandleIsInvalid", True)}), faults(lost=True),
        faults(delay_s=12.0),
    ]  # fmt: skip
    for shift, name in enumerate(("receive_message", "send_message_batch", "delete_message_batch")):
        rig.sqs.fail_next(name, *[mixed[(i * 5 + shift) % len(mixed)] for i in range(60)])
    async with rig.running(slots=40, pollers=3):
        await rig.until_empty()
    dead = {body["job_id"] for body in rig.sqs.bodies(DEAD)}
    assert set(rig.answered()) | dead == set(jobs)
