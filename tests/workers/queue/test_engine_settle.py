"""The engine settles every message once, and only after its result is durable."""

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from protocol.errors import ErrorCode
from workers.lifecycle import State
from workers.queue.outcome import Failed

if TYPE_CHECKING:
    from tests.workers.queue.conftest import Rig

Failure = Callable[[ErrorCode], Failed]


async def test_jobs_are_answered_then_deleted(rig: "Rig") -> None:
    """Every job gets its reply, and its message is gone; three calls for ten jobs."""
    rig.put(*(f"s-{i}" for i in range(10)))
    async with rig.running() as engine:
        await rig.until_empty()
        assert sorted(rig.answered()) == sorted(f"s-{i}" for i in range(10))
        assert len(rig.sqs.named("send_message_batch")) == 1
        assert len(rig.sqs.named("delete_message_batch")) == 1
    assert engine.status.answered == 10
    assert engine.status.settled == {State.DELETED: 10}
    assert engine.status.in_flight == 0


async def test_transient_failure_backs_off_by_receive_count(rig: "Rig", failure: Failure) -> None:
    """A transient failure hides the message for half (our random source) of 1, 2, 4 s: then it is answered."""
    rig.put("s-1")
    rig.handler.plan("s-1", *[failure(ErrorCode.KMS_THROTTLED)] * 3)
    async with rig.running() as engine:
        await rig.until_empty()
    delays = [call.entries[0]["VisibilityTimeout"] for call in rig.sqs.named("change_message_visibility_batch")]
    assert delays == [1, 1, 2]  # whole seconds, rounded up
    assert rig.answered() == ["s-1"]
    assert engine.status.failures == {ErrorCode.KMS_THROTTLED: 3}


async def test_permanent_failure_is_reported_copied_deleted_in_this_order(rig: "Rig", failure: Failure) -> None:
    """Error reply, then dead-letter copy with the reason in attributes, then delete."""
    rig.put("s-1")
    rig.handler.plan("s-1", failure(ErrorCode.UNKNOWN_USER))
    async with rig.running():
        await rig.until_empty()
    order = [(call.name, call.url.rsplit("/", 1)[-1]) for call in rig.sqs.calls if call.name != "receive_message"]
    assert order == [
        ("send_message_batch", "reply"),
        ("send_message_batch", "sign-dlq"),
        ("delete_message_batch", "sign"),
    ]
    assert rig.errors() == {"s-1": "unknown_user"}
    (copy,) = rig.sqs.queues[rig.engine._settings.dead_letter_queue_url or ""]
    assert json.loads(copy.body)["job_id"] == "s-1"
    assert {name: value["StringValue"] for name, value in copy.attributes.items()} == {
        "error_code": "unknown_user",
        "job_id": "s-1",
        "source_queue": "sign",
        "receive_count": "1",
        "source_message_id": "m-0",
    }


async def test_without_dead_letter_queue_the_error_reply_is_the_result(rig: "Rig", failure: Failure) -> None:
    """No dead-letter queue: the error reply makes a permanent failure durable, then the message is deleted."""
    rig.put("s-1")
    rig.handler.plan("s-1", failure(ErrorCode.UNKNOWN_USER))
    async with rig.running(dead_letter_queue_url=None):
        await rig.until_empty()
    assert rig.errors() == {"s-1": "unknown_user"}
    assert len(rig.sqs.named("send_message_batch")) == 1


async def test_last_receive_makes_a_failure_permanent(rig: "Rig", failure: Failure) -> None:
    """A job that fails on its last receive is reported and copied with the count."""
    rig.put("s-1")
    rig.handler.plan("s-1", *[failure(ErrorCode.NOT_READY)] * 3)
    async with rig.running(max_receive_count=3):
        await rig.until_empty()
    assert rig.errors() == {"s-1": "not_ready"}
    (copy,) = rig.sqs.queues[rig.engine._settings.dead_letter_queue_url or ""]
    assert copy.attributes["receive_count"]["StringValue"] == "3"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("no json", "bad_request"),
        ('{"type": "generate", "userid": "u1"}', "wrong_queue"),
        ('{"type": "sign", "userid": "u1", "message": "m", "reply_to": "https://elsewhere/q"}', "bad_request"),
        ('{"type": "sign", "userid": "u1", "message": "m", "extra": 1}', "bad_request"),
    ],
)
async def test_body_that_is_no_job_is_refused_for_good(rig: "Rig", body: str, code: str) -> None:
    """A body that is no job of this queue never reaches the handler, and its neighbours are worked on."""
    rig.sqs.put("https://sqs.eu-west-1.amazonaws.com/111122223333/sign", body, message_id="m-bad")
    rig.put("s-1")
    async with rig.running():
        await rig.until_empty()
    assert rig.handler.seen == ["s-1"]
    assert rig.answered() == ["s-1"]
    assert rig.errors() == {"m-bad": code}
    assert len(rig.sqs.queues[rig.engine._settings.dead_letter_queue_url or ""]) == 1


async def test_handler_that_raises_fails_its_own_jobs_only(rig: "Rig") -> None:
    """A handler's bug becomes `internal` for the jobs of that call; they come again, others go on."""
    rig.put("s-1")
    rig.handler.plan("s-1", ZeroDivisionError("a text that no log may have"))
    async with rig.running() as engine:
        await rig.until_empty()
    assert rig.answered() == ["s-1"]
    assert engine.status.failures == {ErrorCode.INTERNAL: 1}


async def test_handler_that_miscounts_fails_its_jobs(rig: "Rig", monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer outcomes than jobs: nobody can tell whose they are, so all jobs of the call fail for now."""
    rig.put("s-1", "s-2")
    handle = rig.handler.handle

    async def forget_one(jobs: list[object]) -> object:
        return (await handle(jobs))[:1]  # type: ignore[arg-type]  # the rig's own handler takes any job

    monkeypatch.setattr(rig.handler, "handle", forget_one)
    async with rig.running() as engine:
        await rig.until(lambda: engine.status.failures.get(ErrorCode.INTERNAL, 0) >= 2)
        monkeypatch.setattr(rig.handler, "handle", handle)
        await rig.until_empty()
    assert sorted(rig.answered()) == ["s-1", "s-2"]


async def test_handler_that_hangs_is_cut_off(rig: "Rig") -> None:
    """A handler past its time-out is cancelled, and its jobs are released while they are still ours."""
    rig.put("s-1")
    rig.handler.plan("s-1", asyncio.Event())
    async with rig.running() as engine:
        await rig.until_empty()
    assert rig.handler.cancelled == 1
    assert engine.status.failures == {ErrorCode.DEADLINE_EXCEEDED: 1}
    assert rig.answered() == ["s-1"]


async def test_reply_goes_where_the_job_says_if_allowed(rig: "Rig") -> None:
    """`reply_to` that matches a pattern gets the reply; the default queue gets the others."""
    base = "https://sqs.eu-west-1.amazonaws.com/111122223333"
    rig.put("s-1")
    rig.put("s-2", reply_to=f"{base}/team-a")
    rig.put("s-3", reply_to=f"{base}/other")
    async with rig.running(reply_to_allow=[f"{base}/team-*"]) as engine:
        await rig.until_empty()
    assert rig.answered() == ["s-1"]
    assert rig.answered(f"{base}/team-a") == ["s-2"]
    assert rig.errors() == {"s-3": "bad_request"}
    assert engine._settlement._senders == {}, "nothing is kept of queues that are not in use"


async def test_trace_header_is_carried_to_reply_and_copy(rig: "Rig", failure: Failure) -> None:
    """AWSTraceHeader goes as the system attribute, so the limit of ten message attributes does not matter."""
    attributes = {f"a{i}": {"DataType": "String", "StringValue": "x"} for i in range(10)}
    body = '{"type": "sign", "job_id": "s-1", "userid": "u1", "message": "m"}'
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/sign"
    rig.sqs.put(url, body, attributes=attributes, system={"AWSTraceHeader": "Root=1-5759e988"})
    rig.handler.plan("s-1", failure(ErrorCode.UNKNOWN_USER))
    async with rig.running():
        await rig.until_empty()
    (reply,) = rig.sqs.queues[rig.engine._settings.reply_queue_url]
    (copy,) = rig.sqs.queues[rig.engine._settings.dead_letter_queue_url or ""]
    assert reply.system["AWSTraceHeader"] == copy.system["AWSTraceHeader"] == "Root=1-5759e988"
    assert set(copy.attributes) == {
        "error_code", "job_id", "source_queue", "receive_count", "source_message_id", "a0", "a1", "a2", "a3", "a4",
    }  # fmt: skip


async def test_duplicate_deliveries_are_each_answered_and_settled(rig: "Rig") -> None:
    """Two deliveries of one message in one receive have two handles and two settlements; one never harms the other."""
    body = '{"type": "sign", "job_id": "s-1", "userid": "u1", "message": "m"}'
    for _ in range(2):
        rig.sqs.put("https://sqs.eu-west-1.amazonaws.com/111122223333/sign", body, message_id="same")
    async with rig.running() as engine:
        await rig.until_empty()
    assert rig.answered() == ["s-1", "s-1"]
    assert engine.status.settled == {State.DELETED: 2}
