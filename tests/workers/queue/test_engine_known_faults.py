"""What queue workers got wrong, one test for each issue thread that told of it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from config.engine import SQS_MAX_BYTES, EngineSettings
from protocol.errors import ErrorCode
from workers.lifecycle import State
from workers.queue.outcome import Failed

if TYPE_CHECKING:
    from tests.workers.queue.conftest import Fault, Rig

Failure = Callable[[ErrorCode], Failed]
BASE = "https://sqs.eu-west-1.amazonaws.com/111122223333"
JOBS, FIFO_JOBS, FIFO_REPLIES = f"{BASE}/sign", f"{BASE}/sign.fifo", f"{BASE}/reply.fifo"


async def test_failed_entries_of_a_batch_delete_are_tried_again_alone(rig: "Rig", faults: "type[Fault]") -> None:
    """sqs-consumer #193, Shoryuken #370: `Failed` of a batch delete was ignored, and done jobs came again."""
    rig.put(*(f"s-{i}" for i in range(10)))
    rig.sqs.fail_next(
        "delete_message_batch", faults(entries={3: ("InternalError", False), 7: ("RequestThrottled", True)})
    )
    async with rig.running() as engine:
        await rig.until_empty()
    first, second = rig.sqs.named("delete_message_batch")
    assert [e["ReceiptHandle"] for e in second.entries] == [first.entries[i]["ReceiptHandle"] for i in (3, 7)]
    assert engine.status.settled == {State.DELETED: 10}
    assert len(rig.answered()) == 10


async def test_message_delivered_twice_does_not_fail_its_batch(rig: "Rig") -> None:
    """spring-cloud-aws #1634, broadway_sqs #63: message ids as batch entry ids are not distinct after a redelivery."""
    for _ in range(10):
        rig.sqs.put(JOBS, '{"type": "sign", "userid": "u1", "message": "m"}', message_id="same")
    async with rig.running() as engine:
        await rig.until_empty()
    (deletes,) = rig.sqs.named("delete_message_batch")
    assert [entry["Id"] for entry in deletes.entries] == [str(i) for i in range(10)]
    assert engine.status.settled == {State.DELETED: 10}


async def test_deletes_that_wait_for_a_batch_are_flushed_by_a_drain(rig: "Rig") -> None:
    """spring-cloud-aws #925, #1661: buffered deletes were lost at shutdown. Here a drain waits for them."""
    rig.put("s-1", "s-2", "s-3")
    async with rig.running(flush_ms=1_000):
        await rig.until(lambda: bool(rig.handler.seen))
        rig.stop.request()
    assert rig.sqs.queues[JOBS] == []
    assert len(rig.answered()) == 3


async def test_no_heartbeat_is_on_its_way_when_a_message_is_settled(rig: "Rig", faults: "type[Fault]") -> None:
    """sqs-consumer #260, #848: a heartbeat raced the delete. Here the delete waits for its end."""
    rig.put("s-1")
    rig.handler.plan("s-1", 25.0)  # one heartbeat begins between 19 and 24.2 s and takes until after the job is done
    rig.sqs.fail_next("change_message_visibility_batch", faults(delay_s=4.0))
    async with rig.running():
        await rig.until_empty()
    (beat,), (delete,) = rig.sqs.named("change_message_visibility_batch"), rig.sqs.named("delete_message_batch")
    assert beat.at + 4.0 <= delete.at
    assert rig.answered() == ["s-1"]


async def test_heartbeats_go_on_while_a_drain_waits(rig: "Rig") -> None:
    """Shoryuken #636: the heartbeat stopped with the pollers while jobs still ran, and they were run twice."""
    rig.put("s-1")
    rig.handler.plan("s-1", 100.0)
    async with rig.running(drain_deadline_s=110):
        await rig.until(lambda: rig.handler.running == 1)
        rig.stop.request()
    assert len(rig.sqs.named("change_message_visibility_batch")) >= 4
    assert rig.handler.seen == ["s-1"]
    assert rig.answered() == ["s-1"]


@pytest.mark.parametrize("visibility_timeout_s", [5, 6, 10, 30, 43_199])
def test_heartbeat_interval_is_positive_for_every_visibility_timeout(visibility_timeout_s: int) -> None:
    """Shoryuken #1021: timeout minus five seconds was zero or less for short timeouts."""
    settings = EngineSettings(
        queue_url=JOBS,
        reply_queue_url=f"{BASE}/reply",
        visibility_timeout_s=visibility_timeout_s,
        handler_timeout_s=1,
        max_extension_s=43_200,
    )
    assert 0 < settings.beat_interval_s <= (visibility_timeout_s - settings.visibility_margin_s) / 2


async def test_heartbeat_does_not_overwrite_a_back_off(rig: "Rig", faults: "type[Fault]") -> None:
    """Shoryuken #593: a heartbeat after the release set the visibility back to the full timeout."""
    rig.put("s-1")
    rig.handler.plan("s-1", 26.0)
    rig.sqs.fail_next("change_message_visibility_batch", faults(delay_s=4.0))
    released: list[float] = []
    async with rig.running(max_receive_count=50, handler_timeout_s=25.0):
        await rig.until(lambda: rig.handler.calls[1:] != [])
        released = [c.entries[0]["VisibilityTimeout"] for c in rig.sqs.named("change_message_visibility_batch")]
        await rig.until_empty()
    assert released == [60, 1]  # the heartbeat, then the back-off, and nothing after it


async def test_poll_that_runs_at_a_drain_is_waited_for_and_released(rig: "Rig") -> None:
    """aws-sdk-js #2350, aws-sdk-java-v2 #1395, aws-sdk-go-v2 #2068: a cancelled long poll orphans its messages."""
    async with rig.running():
        await rig.until(lambda: len(rig.sqs.named("receive_message")) == 1)
        rig.stop.request()
        await asyncio.sleep(5)
        rig.put("s-1")
    (message,) = rig.sqs.queues[JOBS]
    assert (message.receive_count, rig.handler.seen) == (1, [])
    assert message.visible_at <= asyncio.get_running_loop().time()


async def test_failures_leak_no_slot(rig: "Rig", failure: Failure) -> None:
    """Kombu #1127: each failure took a slot for good, until nothing was consumed."""
    for i in range(30):
        rig.put(f"s-{i}")
        rig.handler.plan(f"s-{i}", failure(ErrorCode.KMS_THROTTLED), ValueError(), failure(ErrorCode.UNKNOWN_USER))
    async with rig.running(slots=4) as engine:
        await rig.until_empty()
        await rig.until(lambda: engine.status.in_flight == 0)
    assert engine._slots.free == 4
    assert engine.status.settled[State.DELETED] == 30
    assert engine.status.settled[State.RELEASED] >= 60


async def test_one_slow_job_does_not_stop_polling(rig: "Rig") -> None:
    """spring-cloud-aws #1187: the slowest message of a batch held back the next receive."""
    slow = asyncio.Event()
    rig.put("slow")
    rig.handler.plan("slow", slow)
    async with rig.running(slots=10):
        await rig.until(lambda: rig.handler.running == 1)
        rig.put(*(f"s-{i}" for i in range(95)))
        await rig.until(lambda: len(rig.answered()) == 95)
        assert rig.handler.running == 1
        slow.set()
        await rig.until_empty()


async def test_full_queue_is_worked_without_a_pause(rig: "Rig") -> None:
    """Kombu #1783: a worker waited between the messages of a full queue, 5 a minute instead of 500.

    In virtual time only waiting costs: 1,000 jobs take 100 receives and less than a second and a half of it.
    """
    rig.put(*(f"s-{i}" for i in range(1_000)))
    started = asyncio.get_running_loop().time()
    async with rig.running(pollers=2, wait_time_s=20):
        await rig.until_empty()
        assert asyncio.get_running_loop().time() - started < 1.5
    calls = [c for c in rig.sqs.calls if c.name != "receive_message"]
    assert len(calls) == 200
    assert len(rig.sqs.named("receive_message")) <= 104


async def test_group_that_failed_is_worked_on_when_it_comes_again(rig: "Rig", failure: Failure) -> None:
    """powertools-typescript #3673: a group that failed once was skipped in every later batch."""
    rig.put("a-1", "a-2", url=FIFO_JOBS, group="a")
    rig.handler.plan("a-1", failure(ErrorCode.KMS_THROTTLED))
    async with rig.running_fifo() as engine:
        await rig.until_empty(FIFO_JOBS)
        assert engine._ledger._groups == {}
    assert rig.handler.seen == ["a-1", "a-1", "a-2"]


async def test_rest_of_a_failed_group_is_given_back_not_deleted(rig: "Rig", failure: Failure) -> None:
    """aws-dotnet-messaging #174: what stood behind a failed message of its group was deleted unworked."""
    rig.put("a-1", "a-2", "a-3", url=FIFO_JOBS, group="a")
    rig.handler.plan("a-1", failure(ErrorCode.KMS_THROTTLED))
    async with rig.running_fifo() as engine:
        await rig.until_empty(FIFO_JOBS)
    assert rig.answered(FIFO_REPLIES) == ["a-1", "a-2", "a-3"]
    assert engine.status.settled == {State.RELEASED: 3, State.DELETED: 3}


async def test_drain_lets_running_jobs_finish(rig: "Rig") -> None:
    """In arq #192, saq #75: SIGTERM cancelled running jobs instead of draining them."""
    rig.put("s-1")
    rig.handler.plan("s-1", 30.0)
    async with rig.running():
        await rig.until(lambda: rig.handler.running == 1)
        rig.stop.request()
    assert rig.handler.cancelled == 0
    assert rig.answered() == ["s-1"]
    assert rig.sqs.queues[JOBS] == []


async def test_replies_fill_a_mebibyte_and_not_more(rig: "Rig", monkeypatch: pytest.MonkeyPatch) -> None:
    """amazon-sqs-python-extended-client-lib #29: limits were hard-coded at 256 KiB. Batches are split at 1 MiB."""
    monkeypatch.setattr("workers.queue.settlement.error_reply", lambda delivery, _: _padded(delivery.job_id, 400_000))
    for i in range(5):
        rig.sqs.put(JOBS, "no job", message_id=f"m-{i}")
    async with rig.running():
        await rig.until_empty()
    sends = [call for call in rig.sqs.named("send_message_batch") if call.url.endswith("reply")]
    assert [len(call.entries) for call in sends] == [2, 2, 1]
    assert all(sum(len(e["MessageBody"]) for e in call.entries) <= SQS_MAX_BYTES for call in sends)


async def test_trace_header_is_no_message_attribute(rig: "Rig") -> None:
    """Trace context in message attributes meets the limit of 10: it is the system attribute AWSTraceHeader."""
    body = '{"type": "sign", "job_id": "s-1", "userid": "u1", "message": "m"}'
    rig.sqs.put(JOBS, body, system={"AWSTraceHeader": "Root=1-5759e988"})
    async with rig.running():
        await rig.until_empty()
    (send,) = rig.sqs.named("send_message_batch")
    assert "MessageAttributes" not in send.entries[0]
    assert send.entries[0]["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"] == "Root=1-5759e988"


def _padded(job_id: str, size: int) -> str:
    return f'{{"job_id": "{job_id}", "status": "ok", "pad": "{"x" * size}"}}'
