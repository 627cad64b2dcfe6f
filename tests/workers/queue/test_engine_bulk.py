"""Replies in several messages: every part is accepted before the job is deleted, or none of it counts."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, SignerError
from protocol.jobs import BatchSignature, SignBatchReply, SignReply
from workers.queue.letters import reply_bodies
from workers.queue.outcome import Answered, Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.workers.queue.conftest import Fault, Rig

JOBS, REPLIES, DEAD = (
    f"https://sqs.eu-west-1.amazonaws.com/111122223333/{name}" for name in ("sign", "reply", "sign-dlq")
)
FIFO_REPLIES = f"{REPLIES}.fifo"
SMALL = 4_096


def result(index: int, signature: str = "5a" * 64) -> BatchSignature:
    """Return one result."""
    return BatchSignature(index=index, item_id=f"i-{index}", userid="u1", signature=signature, publickey="04" * 64)


def reply(count: int, job_id: str = "b-1") -> SignBatchReply:
    """Return the reply to a bulk job."""
    return SignBatchReply(job_id=job_id, results=tuple(result(index) for index in range(count)))


def put(rig: "Rig", *job_ids: str, url: str = JOBS, group: str | None = None) -> None:
    """Put bulk jobs on the queue; the handler's script says what they become."""
    items = [{"userid": "u1", "message": "m"}]
    for job_id in job_ids:
        rig.sqs.put(url, json.dumps({"type": "sign_batch", "job_id": job_id, "items": items}), group=group)


def indexes(bodies: list[dict[str, Any]]) -> list[int]:
    """Return the places of all results, in the order of the parts."""
    parts = sorted(bodies, key=lambda body: body["part"])
    assert [body["part"] for body in parts] == list(range(1, len(parts) + 1))
    assert {body["parts"] for body in parts} == {len(parts)}
    return [found["index"] for body in parts for found in body["results"]]


async def test_a_reply_over_the_limit_goes_in_numbered_parts(rig: "Rig") -> None:
    """All results arrive, each in one part, each part within the limit; the job is deleted once."""
    put(rig, "b-1")
    rig.handler.plan("b-1", Answered(reply(100)))
    async with rig.running(max_batch_bytes=SMALL):
        await rig.until_empty()
    bodies = rig.sqs.bodies(REPLIES)
    assert len(bodies) > 5
    assert indexes(bodies) == list(range(100))
    assert all(len(message.body.encode()) <= SMALL for message in rig.sqs.queues[REPLIES])
    assert len(rig.sqs.named("delete_message_batch")) == 1


async def test_no_delete_before_every_part_is_accepted(rig: "Rig", faults: "Callable[..., Fault]") -> None:
    """A part that fails is sent again, with the others, before the job is deleted: twice is harmless, never is not."""
    put(rig, "b-1")
    rig.handler.plan("b-1", Answered(reply(20)))
    rig.sqs.fail_next("send_message_batch", faults(), faults(code="ServiceUnavailable"))
    async with rig.running(max_batch_bytes=SMALL):
        await rig.until_empty()
    names = [call.name for call in rig.sqs.calls if call.name != "receive_message"]
    assert names[-1] == "delete_message_batch"
    assert names.count("delete_message_batch") == 1
    assert {found["index"] for body in rig.sqs.bodies(REPLIES) for found in body["results"]} == set(range(20))


async def test_a_part_that_is_never_accepted_keeps_the_job(rig: "Rig", faults: "Callable[..., Fault]") -> None:
    """It is released and comes again, although other parts were accepted."""
    put(rig, "b-1")
    rig.handler.plan("b-1", Answered(reply(20)), Answered(reply(20)))
    rig.sqs.fail_next("send_message_batch", faults(), faults(entries={0: ("InvalidMessageContents", True)}))
    async with rig.running(max_batch_bytes=SMALL):
        await rig.until_empty()
    assert rig.handler.seen == ["b-1", "b-1"]


async def test_parts_on_a_fifo_queue_are_not_taken_for_repetitions(rig: "Rig") -> None:
    """Each part has a deduplication id of its own, the same one when it is sent again."""
    put(rig, "b-1", url=f"{JOBS}.fifo", group="g")
    rig.handler.plan("b-1", Answered(reply(40)))
    async with rig.running_fifo(max_batch_bytes=SMALL):
        await rig.until_empty(f"{JOBS}.fifo")
    assert indexes(rig.sqs.bodies(FIFO_REPLIES)) == list(range(40))


async def test_replies_of_several_jobs_stay_apart(rig: "Rig") -> None:
    """One job's failed part holds up no other job that came with it."""
    put(rig, "b-1", "b-2")
    rig.put("s-1")
    rig.handler.plan("b-1", Answered(reply(30)))
    rig.handler.plan("b-2", Answered(reply(3, "b-2")))
    rig.handler.plan("s-1", Answered(SignReply(job_id="s-1", userid="u1", signature="5a", publickey="04")))
    async with rig.running(max_batch_bytes=SMALL):
        await rig.until_empty()
    bodies = rig.sqs.bodies(REPLIES)
    assert indexes([body for body in bodies if body["job_id"] == "b-1"]) == list(range(30))
    assert indexes([body for body in bodies if body["job_id"] == "b-2"]) == list(range(3))
    assert [body["job_id"] for body in bodies if body["type"] == "sign"] == ["s-1"]


async def test_an_unfinished_job_is_tried_again_and_tells_its_results_at_last(rig: "Rig") -> None:
    """While there is a further try nothing is answered; after the last one everything that is known is, with a copy."""
    put(rig, "b-1")
    unfinished = Failed(SignerError(ErrorCode.KMS_THROTTLED), reply(2))
    rig.handler.plan("b-1", unfinished, unfinished)
    async with rig.running(max_receive_count=2):
        await rig.until_empty()
    assert rig.handler.seen == ["b-1", "b-1"]
    assert [indexes([body]) for body in rig.sqs.bodies(REPLIES)] == [[0, 1]]
    (copy,) = rig.sqs.queues[DEAD]
    assert copy.attributes["error_code"]["StringValue"] == "kms_throttled"


async def test_a_bulk_job_on_the_generate_queue_is_refused(rig: "Rig") -> None:
    """Which worker takes a job is a fact of its type."""
    rig.put("g-1", type="generate", message=None)
    put(rig, "b-1")
    rig.handler.plan("b-1", Answered(reply(1)))
    async with rig.running():
        await rig.until_empty()
    assert rig.answered() == ["b-1"]
    assert rig.errors() == {"g-1": "bad_request"}


@given(st.lists(st.integers(2, 200), min_size=1, max_size=60), st.integers(1_024, 8_000))
def test_parts_hold_every_result_once_within_the_limit(sizes: list[int], max_bytes: int) -> None:
    """For results of any size, in any limit."""
    results = tuple(result(index, "é" * size) for index, size in enumerate(sizes))
    bodies = reply_bodies(SignBatchReply(job_id="b-1", results=results), max_bytes)
    assert all(len(body.encode()) <= max_bytes for body in bodies)
    assert indexes([json.loads(body) for body in bodies]) == list(range(len(sizes)))


async def test_a_bulk_job_takes_a_slot_for_each_hundred_items(rig: "Rig") -> None:
    """Slots beyond the first are owed: while any is, nothing more is received, and at the end all are back."""
    items = [{"userid": "u1", "message": "m"}] * 201
    names = [f"b-{number}" for number in range(4)]
    first = asyncio.Event()
    for name in names:
        rig.sqs.put(JOBS, json.dumps({"type": "sign_batch", "job_id": name, "items": items}))
    rig.handler.plan("b-0", first, Answered(reply(1, "b-0")))
    async with rig.running(slots=2, pollers=1) as engine:
        await rig.until(lambda: rig.handler.running == 1)
        await asyncio.sleep(60)  # virtual time: a poll would have come by now
        assert engine._slots.free == 2 - 2 * 3
        assert len(rig.sqs.named("receive_message")) == 1
        first.set()
        await rig.until_empty()
        await rig.until(lambda: engine.status.in_flight == 0)
        assert engine._slots.free <= 2
    assert engine._slots.free == 2
    assert [job_id for call in rig.handler.calls for job_id in call] == names
