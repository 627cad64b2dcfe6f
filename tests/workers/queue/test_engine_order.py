"""FIFO queues: order within each group, also over receives; groups side by side."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.errors import ErrorCode
from workers.lifecycle import State
from workers.queue.outcome import Failed

if TYPE_CHECKING:
    from tests.workers.queue.conftest import Fault, Rig

Failure = Callable[[ErrorCode], Failed]
BASE = "https://sqs.eu-west-1.amazonaws.com/111122223333"
JOBS, FIFO_JOBS, FIFO_REPLIES, FIFO_DEAD = (
    f"{BASE}/sign", f"{BASE}/sign.fifo", f"{BASE}/reply.fifo", f"{BASE}/sign-dlq.fifo",
)  # fmt: skip


async def test_order_holds_within_groups_over_many_receives(rig: "Rig") -> None:
    """However jobs of three groups are mixed, each group is handled and answered in its order."""
    for i in range(20):
        for group in "abc":
            rig.put(f"{group}-{i:02}", url=FIFO_JOBS, group=group)
    async with rig.running_fifo(pollers=3):
        await rig.until_empty(FIFO_JOBS)
    for jobs in (rig.handler.seen, rig.answered(FIFO_REPLIES)):
        for group in "abc":
            assert [job for job in jobs if job.startswith(group)] == [f"{group}-{i:02}" for i in range(20)]


async def test_next_of_a_group_starts_after_the_delete_of_the_one_before(rig: "Rig") -> None:
    """A job is handled only when the one before it in its group can never come again."""
    rig.put("a-1", "a-2", url=FIFO_JOBS, group="a")
    rig.handler.plan("a-2", asyncio.Event())
    async with rig.running_fifo(handler_timeout_s=5):
        await rig.until(lambda: rig.handler.seen == ["a-1", "a-2"])
        assert len(rig.sqs.queues[FIFO_JOBS]) == 1


async def test_slow_group_holds_no_other_group(rig: "Rig") -> None:
    """Groups received together go on side by side: a slow one keeps only its own jobs waiting."""
    slow = asyncio.Event()
    rig.put("a-1", "a-2", url=FIFO_JOBS, group="a")
    async with rig.running_fifo():
        rig.handler.plan("a-1", slow)
        await rig.until(lambda: rig.handler.running == 1)
        rig.put("b-1", "b-2", "b-3", url=FIFO_JOBS, group="b")
        await rig.until(lambda: rig.answered(FIFO_REPLIES) == ["b-1", "b-2", "b-3"])
        slow.set()
        await rig.until_empty(FIFO_JOBS)
    assert rig.answered(FIFO_REPLIES)[3:] == ["a-1", "a-2"]


async def test_failed_group_blocks_no_other(rig: "Rig", failure: Failure) -> None:
    """A group whose first job fails again and again is retried in order, and others pass it by."""
    rig.put("a-1", "a-2", url=FIFO_JOBS, group="a")
    rig.put("b-1", "b-2", url=FIFO_JOBS, group="b")
    rig.handler.plan("a-1", *[failure(ErrorCode.KMS_UNAVAILABLE)] * 3)
    async with rig.running_fifo():
        await rig.until_empty(FIFO_JOBS)
    assert rig.answered(FIFO_REPLIES) == ["b-1", "b-2", "a-1", "a-2"]


async def test_permanent_failure_lets_the_group_go_on(rig: "Rig", failure: Failure) -> None:
    """A job that failed for good is reported and copied, in its group's name, and the next has its turn."""
    rig.put("a-1", "a-2", url=FIFO_JOBS, group="a")
    rig.handler.plan("a-1", failure(ErrorCode.UNKNOWN_USER))
    async with rig.running_fifo():
        await rig.until_empty(FIFO_JOBS)
    assert rig.errors(FIFO_REPLIES) == {"a-1": "unknown_user"}
    assert rig.answered(FIFO_REPLIES) == ["a-2"]
    (copy,) = rig.sqs.queues[FIFO_DEAD]
    assert copy.group == "a"


async def test_fifo_reply_that_is_sent_again_is_dropped(rig: "Rig", faults: "type[Fault]") -> None:
    """When the answer of a send was lost the reply is sent again, and the queue knows the second one."""
    rig.put("s-1", url=FIFO_JOBS, group="a")
    rig.sqs.fail_next("send_message_batch", faults(lost=True))
    async with rig.running_fifo():
        await rig.until_empty(FIFO_JOBS)
    first, second = (call.entries[0] for call in rig.sqs.named("send_message_batch"))
    assert first["MessageGroupId"] == second["MessageGroupId"] == "u1"
    assert first["MessageDeduplicationId"] == second["MessageDeduplicationId"]
    assert rig.answered(FIFO_REPLIES) == ["s-1"]


async def test_fifo_reply_is_not_taken_for_an_earlier_one(rig: "Rig", failure: Failure) -> None:
    """A job id may come twice: of a job that failed and was redriven, or of another client. Both replies arrive."""
    rig.put("s-1", url=FIFO_JOBS, group="a")
    rig.handler.plan("s-1", failure(ErrorCode.UNKNOWN_USER))
    async with rig.running_fifo():
        await rig.until_empty(FIFO_JOBS)
        rig.put("s-1", url=FIFO_JOBS, group="a")
        await rig.until_empty(FIFO_JOBS)
    assert rig.errors(FIFO_REPLIES) == {"s-1": "unknown_user"}
    assert rig.answered(FIFO_REPLIES) == ["s-1"]


async def test_lost_head_gives_its_group_back(rig: "Rig", faults: "type[Fault]") -> None:
    """When a group's first job loses its handle, those behind it are given back: it comes again before them."""
    rig.put("a-1", "a-2", url=FIFO_JOBS, group="a")
    rig.handler.plan("a-1", 30.0)
    rig.sqs.fail_next("change_message_visibility_batch", faults(entries={0: ("ReceiptHandleIsInvalid", True)}))
    async with rig.running_fifo() as engine:
        await rig.until_empty(FIFO_JOBS)
    assert rig.handler.seen.index("a-2") > rig.handler.seen.index("a-1")
    assert engine.status.settled[State.LOST] == 1
    assert rig.answered(FIFO_REPLIES)[-1] == "a-2"


async def test_groups_of_a_standard_queue_keep_no_order(rig: "Rig") -> None:
    """On a standard queue a group id is for fair queues only: all ten jobs are handled together."""
    rig.put(*(f"s-{i}" for i in range(10)), group="tenant")
    async with rig.running():
        await rig.until_empty(JOBS)
    assert len(rig.handler.calls) == 1
