"""The small parts: slots, interrupts, letters."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from protocol.errors import ErrorCode, SignerError
from protocol.jobs import SignJob
from workers.lifecycle import Life, Policy
from workers.queue.delivery import AttributeValue, Delivery
from workers.queue.letters import dead_letter
from workers.queue.slots import Slots
from workers.queue.stopping import InterruptedWaitError, Interrupts

if TYPE_CHECKING:
    from tests.workers.queue.conftest import Fault, Rig


async def test_pauses_between_tries_double(rig: "Rig", faults: "type[Fault]") -> None:
    """The tries of an entry are apart by half (our random source) of 100 and 200 ms."""
    rig.put("s-1")
    rig.sqs.fail_next("send_message_batch", *[faults(code="RequestThrottled")] * 2)
    async with rig.running():
        await rig.until_empty()
    first, second, third = (call.at for call in rig.sqs.named("send_message_batch"))
    assert (round(second - first, 2), round(third - second, 2)) == (0.06, 0.11)


async def test_one_poller_on_an_empty_queue_all_on_a_full_one(rig: "Rig", faults: "type[Fault]") -> None:
    """A full receive wakes all pollers; an empty one sends all but the first to rest."""
    rig.put(*(f"s-{i}" for i in range(200)))
    rig.sqs.fail_next("receive_message", *[faults(delay_s=1.0)] * 20)
    async with rig.running(pollers=4):
        await rig.until_empty()
        times = [call.at for call in rig.sqs.named("receive_message")][:20]
        assert times[-1] - times[0] < 7, "twenty receives of a second each, four at a time"
        await asyncio.sleep(40)
        before = len(rig.sqs.named("receive_message"))
        await asyncio.sleep(200)
        assert len(rig.sqs.named("receive_message")) - before == 10, "one long poll of 20 s after another"


async def test_slots_linger_for_a_full_receive() -> None:
    """A taker waits a moment for all it wants, then takes what there is, and at least one."""
    slots = Slots(10, linger_s=0.01)
    loop = asyncio.get_running_loop()
    assert await slots.take(10) == 10
    loop.call_later(5.0, slots.give_back, 2)
    assert await slots.take(10) == 2
    loop.call_later(0.001, slots.give_back, 4)
    loop.call_later(0.002, slots.give_back, 6)
    assert await slots.take(10) == 10
    assert slots.free == 0


async def test_owed_slots_come_back_before_one_is_taken() -> None:
    """What is owed beyond the slots delays the next taker until all of it has come back."""
    slots = Slots(2, linger_s=0.01)
    assert await slots.take(2) == 2
    slots.owe(3)
    loop = asyncio.get_running_loop()
    for moment, count in [(1.0, 3), (2.0, 1), (3.0, 1)]:
        loop.call_later(moment, slots.give_back, count)
    began = loop.time()
    assert await slots.take(2) == 1
    assert loop.time() - began == pytest.approx(2.0, abs=0.1)


async def test_cancelled_take_takes_nothing() -> None:
    """A wait for slots that is ended leaves all of them."""
    slots, waits = Slots(1, linger_s=0.01), Interrupts()
    assert await slots.take(1) == 1
    asyncio.get_running_loop().call_later(1.0, waits.interrupt)
    with pytest.raises(InterruptedWaitError):
        await waits.run(lambda: slots.take(1))
    slots.give_back(1)
    assert await slots.take(1) == 1
    with pytest.raises(InterruptedWaitError):
        await waits.run(lambda: slots.take(1))


async def test_time_outs_and_interrupts_are_told_apart() -> None:
    """A wait's own time-out stays a TimeoutError, also one that has just struck when an interrupt comes."""
    waits = Interrupts()
    loop = asyncio.get_running_loop()

    async def ignore_once() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            waits.interrupt()
            raise
        return "never"

    with pytest.raises(TimeoutError):
        await waits.run(lambda: asyncio.sleep(10), timeout_s=1)
    started = loop.time()
    with pytest.raises(InterruptedWaitError):
        await waits.run(ignore_once, timeout_s=1)
    assert loop.time() - started == pytest.approx(1)


def _delivery(body: str, attributes: dict[str, AttributeValue]) -> Delivery:
    policy = Policy(
        visibility_timeout_s=60,
        visibility_margin_s=2.0,
        beat_interval_s=15.0,
        max_extension_s=900,
        max_receive_count=3,
        call_tries=2,
        backoff_base_s=1.0,
        backoff_cap_s=300.0,
        has_dead_letter_queue=True,
    )
    return Delivery(
        life=Life(policy, 1, 0.0),
        arrived_at=0.0,
        message_id="m-1",
        receipt_handle="h-1",
        body=body,
        receive_count=1,
        group_id=None,
        trace_header=None,
        attributes=attributes,
        job=SignJob(type="sign", job_id="s-1", userid="u1", message="m"),
        job_id="s-1",
        job_type="sign",
        userid="u1",
        reply_queue_url="",
        error=None,
    )


def test_dead_letter_never_cuts_the_body_and_never_exceeds_the_limit() -> None:
    """The reason comes first, own attributes fill what is left, in bytes of UTF-8, binary values included."""
    own: dict[str, AttributeValue] = {
        "a-binary": {"DataType": "Binary", "BinaryValue": b"\x00" * 100},
        "b-large": {"DataType": "String", "StringValue": "€" * 1_000},
        "error_code": {"DataType": "String", "StringValue": "forged"},
    }
    for body_bytes, names in (
        (10_000, {"error_code", "job_id", "source_queue", "receive_count", "source_message_id", "a-binary", "b-large"}),
        (12_700, {"error_code", "job_id", "source_queue", "receive_count", "source_message_id", "a-binary"}),
        (13_375, set()),
    ):
        letter = dead_letter(
            _delivery("x" * body_bytes, own),
            SignerError(ErrorCode.BAD_REQUEST),
            source_url="https://host/1/sign",
            target_url="https://host/1/dlq",
            max_bytes=13_380,
        )
        assert len(letter.body) == body_bytes
        assert set(letter.attributes) == names
        assert letter.size_bytes <= 13_380
        assert letter.attributes.get("error_code", {"StringValue": "bad_request"})["StringValue"] == "bad_request"
