"""Whatever becomes of replies on their way: each call gets its own answer, or its own error by its deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from protocol.errors import ErrorCode
from tests.workers.client.double import SIGN, Service, edited, failed, honest, key_of, until
from tests.workers.queue.conftest import Fault
from workers.client import (
    ClientStats,
    JobFailedError,
    NoAnswerError,
    Signature,
    SigningClient,
    SigningError,
    SignRequest,
)
from workers.client.reply_queue import VISIBILITY_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USERS = [f"u{number}" for number in range(4)]
PINNED = {userid: key_of(userid).public_key for userid in USERS}

KeptBack = list[tuple[str, str]]


def requests(count: int) -> list[SignRequest]:
    """Return different requests of several users."""
    return [SignRequest(USERS[number % 4], f"message {number}") for number in range(count)]


async def gathered(client: SigningClient, wanted: list[SignRequest]) -> list[Signature]:
    """Sign all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.sign(one.userid, one.message)) for one in wanted]
    return [task.result() for task in tasks]


@pytest.mark.parametrize(
    "order",
    [
        lambda kept: kept[::-1],
        lambda kept: kept[1::2] + kept[::2],
        lambda kept: [one for one in kept for _ in range(3)],
        lambda kept: kept + kept[::-1],
    ],
    ids=["backwards", "mixed", "each three times", "twice, far apart"],
)
async def test_each_call_gets_its_own_answer(service: Service, order: Callable[[KeptBack], KeptBack]) -> None:
    """In whatever order replies come, and however often: the signature over the message of the call."""
    service.keeps_back = True
    async with service.client(pinned_keys=PINNED) as client, asyncio.TaskGroup() as group:
        calls = group.create_task(gathered(client, requests(50)))
        await until(lambda: len(service.kept_back) == 50)
        service.release(order)
        signatures = await calls
        for request, signature in zip(requests(50), signatures, strict=True):
            assert signature.key.userid == request.userid  # over this message, or it would not have been returned
        assert client.stats.answered == 50
    assert len({signature.data for signature in signatures}) == 50


async def test_foreign_and_malformed_messages_are_counted_and_dropped(service: Service) -> None:
    """They disturb nobody, and do not come again."""
    noise = ["", "{}", "no json", '{"type": "sign"}', "\x00", "[" * 10_000]
    service.answer = lambda job: [
        *noise,
        edited(honest(job), job_id="somebody-else's"),
        edited(failed(job, ErrorCode.FROZEN), job_id="unknown"),
        honest(job),
    ]
    async with service.client(pinned_keys=PINNED, pollers=1) as client:
        await client.sign("u0", b"m")
        stats = client.stats
        await until(lambda: not service.queues[service.made[0]])
    assert stats == ClientStats(sent=1, in_flight=0, answered=1, late=0, foreign=2, malformed=len(noise))


async def test_a_lost_reply_ends_its_own_call_only(service: Service) -> None:
    """By its deadline, with the job id to look for; the other calls have their answers long before."""
    service.answer = lambda job: [] if job.userid == "u0" else [honest(job)]
    async with service.client(pinned_keys=PINNED, deadline_s=30) as client:
        results = [result async for result in client.sign_many(requests(8))]
        now = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswerError, match="no reply within 5 s") as caught:
            await client.sign("u0", b"m", deadline_s=5)
        assert asyncio.get_running_loop().time() - now == pytest.approx(5)
    assert (caught.value.code, caught.value.job_id) == (ErrorCode.DEADLINE_EXCEEDED, service.jobs[-1].job_id)
    lost = [result for result in results if isinstance(result.outcome, SigningError)]
    assert [result.request.userid for result in lost] == ["u0", "u0"]
    with pytest.raises(NoAnswerError):
        lost[0].unwrap()


async def test_a_client_that_nobody_answers_is_told_where_to_look(service: Service) -> None:
    """A first call without a reply: nothing works, or the workers do not allow the client's own queue."""
    service.answer = lambda job: [] if job.userid == "u0" else [honest(job)]
    async with service.client(pinned_keys=PINNED) as client:
        with pytest.raises(NoAnswerError) as caught:
            await client.sign("u0", b"m", deadline_s=1)
        queue = service.made[0].rsplit("/", 1)[-1]
        assert caught.value.detail == (
            f"no reply within 1 s (none at all so far: do the workers run, and allow {queue}?)"
        )
        await client.sign("u1", b"m")
        with pytest.raises(NoAnswerError) as caught:
            await client.sign("u0", b"m", deadline_s=1)
        assert caught.value.detail == "no reply within 1 s"


async def test_a_late_reply_is_dropped(service: Service) -> None:
    """It answers nobody, least of all the next call for the same user."""
    service.keeps_back = True
    async with service.client(pinned_keys=PINNED) as client:
        with pytest.raises(NoAnswerError):
            await client.sign("u0", b"first", deadline_s=1)
        service.release()
        second = await client.sign("u0", b"second")
        assert client.stats.late == 1
        assert second.job_id == service.jobs[-1].job_id


async def test_a_cancelled_call_leaves_nothing_behind(service: Service) -> None:
    """Its place is free, its reply is dropped, and the others are not disturbed."""
    service.keeps_back = True
    async with service.client(pinned_keys=PINNED, max_in_flight=2) as client:
        async with asyncio.TaskGroup() as group:
            doomed = group.create_task(client.sign("u0", b"doomed"))
            other = group.create_task(client.sign("u1", b"other"))
            await until(lambda: len(service.kept_back) == 2)
            doomed.cancel()
            await until(doomed.done)
            third = group.create_task(client.sign("u2", b"third"))
            await until(lambda: len(service.kept_back) == 3)
            service.release()
        assert doomed.cancelled()
        assert (other.result().key.userid, third.result().key.userid) == ("u1", "u2")
        await until(lambda: client.stats.late == 1 or not service.queues[service.made[0]])
        assert client.stats.in_flight == 0


async def test_no_more_jobs_are_under_way_than_allowed(service: Service) -> None:
    """Calls beyond the limit wait for a place, and have the deadline of their own all the same."""
    service.keeps_back = True
    async with service.client(pinned_keys=PINNED, max_in_flight=3) as client, asyncio.TaskGroup() as group:
        calls = [group.create_task(client.sign("u0", f"{number}")) for number in range(5)]
        late = group.create_task(timed_out(client))
        await until(lambda: len(service.kept_back) == 3)
        await until(late.done)
        assert len(service.jobs) == 3
        service.release()
    assert len(service.jobs) == 5
    assert len({call.result().data for call in calls}) == 5


async def timed_out(client: SigningClient) -> None:
    """A call that meets its deadline."""
    with pytest.raises(NoAnswerError):
        await client.sign("u0", b"late", deadline_s=1)


async def test_sign_many_reads_no_further_ahead_than_it_may(service: Service) -> None:
    """A generator of a million requests is taken only as fast as results are; results keep the order."""
    taken = 0

    def endless() -> Iterator[SignRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield SignRequest(USERS[taken % 4], f"{taken}")

    async with service.client(pinned_keys=PINNED, max_in_flight=5) as client:
        async with contextlib.aclosing(client.sign_many(endless())) as results:
            numbers: list[bytes | str] = []
            async for result in results:
                result.unwrap()
                numbers.append(result.request.message)
                assert taken <= len(numbers) + 5
                if len(numbers) == 12:
                    break
        assert numbers == [f"{number}" for number in range(1, 13)]
        await until(lambda: client.stats.in_flight == 0)


async def test_jobs_share_their_sends(service: Service) -> None:
    """Ten in a call, and not one call each."""
    async with service.client(pinned_keys=PINNED) as client:
        await gathered(client, requests(100))
    assert [len(call.entries) for call in service.named("send_message_batch")] == [10] * 10


async def test_an_idle_client_does_not_poll(service: Service) -> None:
    """Receives cost money; they are made while somebody waits."""
    async with service.client(pinned_keys=PINNED, pollers=1, wait_time_s=1) as client:
        await asyncio.sleep(3600)
        assert service.named("receive_message") == []
        await client.sign("u0", b"m")
        await asyncio.sleep(3600)
    assert len(service.named("receive_message")) <= 2


@pytest.mark.parametrize(
    "fault",
    [Fault(code="ServiceUnavailable"), Fault(lost=True), Fault(entries={0: ("InternalError", False)})],
    ids=["refused", "answer lost", "entry failed"],
)
async def test_a_send_that_fails_is_tried_again(service: Service, fault: Fault) -> None:
    """A job that was sent twice is answered twice, and the second reply is dropped."""
    service.fail_next("send_message_batch", fault)
    async with service.client(pinned_keys=PINNED) as client:
        made = await client.sign("u0", b"m")
    assert made.key.userid == "u0"
    assert Counter(job.job_id for job in service.jobs).keys() == {made.job_id}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(code="AccessDenied"), "AccessDenied"),
        (Fault(entries={0: ("InvalidMessageContents", True)}), "InvalidMessageContents"),
    ],
    ids=["whole call", "the entry"],
)
async def test_a_queue_that_does_not_take_the_job_is_an_error(service: Service, fault: Fault, code: str) -> None:
    """After the tries that the settings allow."""
    service.fail_next("send_message_batch", *[fault] * 4)
    async with service.client(pinned_keys=PINNED, call_tries=2) as client:
        with pytest.raises(NoAnswerError, match=f"the queue sign does not take the job: {code}") as caught:
            await client.sign("u0", b"m")
        assert client.stats.in_flight == 0
    assert caught.value.code is ErrorCode.QUEUE_UNAVAILABLE


async def test_receives_that_fail_are_tried_again(service: Service) -> None:
    """The answer comes as soon as the queue does; with none, the error says what was wrong with receiving."""
    service.fail_next("receive_message", *[Fault(code="RequestThrottled")] * 4)
    async with service.client(pinned_keys=PINNED, wait_time_s=1) as client:
        await client.sign("u0", b"m")
        await asyncio.sleep(2)
        service.fail_next("receive_message", *[Fault(code="AccessDenied")] * 100)
        with pytest.raises(NoAnswerError, match=r"no reply within 60 s \(receiving: AccessDenied\)"):
            await client.sign("u0", b"m")


async def test_a_reply_that_cannot_be_deleted_comes_again_and_is_dropped(service: Service) -> None:
    """Delivered once, whatever the queue does."""
    service.fail_next("delete_message_batch", Fault(code="ServiceUnavailable"))
    async with service.client(pinned_keys=PINNED, pollers=1) as client:
        await client.sign("u0", b"m")
        await asyncio.sleep(VISIBILITY_TIMEOUT_S + 1)
        await client.sign("u0", b"m")
        await until(lambda: not service.queues[service.made[0]] or client.stats.late == 1)
        with contextlib.suppress(NoAnswerError):
            service.answer = lambda _job: []
            await client.sign("u0", b"m", deadline_s=1)
        assert client.stats == ClientStats(sent=3, in_flight=0, answered=2, late=1, foreign=0, malformed=0)


async def test_the_reply_queue_is_made_and_removed(service: Service) -> None:
    """Each client has its own, named in each job."""
    async with service.client(pinned_keys=PINNED) as one, service.client(pinned_keys=PINNED) as other:
        await one.sign("u0", b"m")
        await other.sign("u0", b"m")
        assert [job.reply_to for job in service.jobs] == service.made
        assert all(url.rsplit("/", 1)[-1].startswith("nitro-signer-reply-") for url in service.made)
        assert len(set(service.made)) == 2


async def test_a_named_reply_queue_is_used_and_left(service: Service) -> None:
    """Where a client may not make queues."""
    url = SIGN.replace("/sign", "/nitro-signer-reply-billing")
    service.queues[url] = []
    async with service.client(pinned_keys=PINNED, reply_queue_url=url) as client:
        await client.sign("u0", b"m")
    assert service.jobs[0].reply_to == url
    assert service.named("create_queue") == service.named("delete_queue") == []


async def test_a_client_that_may_not_make_a_queue_says_so(service: Service) -> None:
    """At the start, with what to do about it."""
    service.fail_next("create_queue", Fault(code="AccessDenied"))
    with pytest.raises(NoAnswerError, match=r"AccessDenied.*reply_queue_url") as caught:
        await service.client().__aenter__()
    assert caught.value.code is ErrorCode.QUEUE_UNAVAILABLE


async def test_a_queue_that_cannot_be_removed_is_no_error(service: Service) -> None:
    """The answers are there; a queue that is left behind is told by its tag."""
    service.fail_next("delete_queue", Fault(code="AccessDenied"))
    async with service.client(pinned_keys=PINNED) as client:
        await client.sign("u0", b"m")
    service.made.clear()


async def test_the_callers_own_error_comes_out_as_it_is(service: Service) -> None:
    """Not inside a group of errors, and the queue is removed all the same."""
    service.answer = lambda job: [failed(job, ErrorCode.FROZEN)]
    with pytest.raises(JobFailedError):
        async with service.client(pinned_keys=PINNED) as client:
            await client.sign("u0", b"m")
    with pytest.raises(ZeroDivisionError):
        async with service.client():
            _ = 1 / 0
    assert service.made == []


async def test_cancelling_the_caller_closes_the_client(service: Service) -> None:
    """In the middle of a call; the queue is removed."""
    service.keeps_back = True

    async def run() -> None:
        async with service.client(pinned_keys=PINNED) as client:
            await client.sign("u0", b"m")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await until(lambda: bool(service.kept_back))
        task.cancel()
    assert task.cancelled()
    assert service.made == []


async def test_calls_that_outlive_the_client_end(service: Service) -> None:
    """Closing the client ends them with an error at once, not with their deadline."""
    service.keeps_back = True
    async with asyncio.TaskGroup() as group:
        async with service.client(pinned_keys=PINNED) as client:
            call = group.create_task(outcome(client))
            results = client.sign_many(requests(3))
            first = group.create_task(outcome_of(results))
            await until(lambda: len(service.kept_back) == 4)
        before = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - before < 1
    assert [str(call.result()), str(first.result())] == ["queue_unavailable: the client was closed"] * 2
    await results.aclose()


async def outcome(client: SigningClient) -> SigningError | None:
    """Return the error of a call."""
    try:
        await client.sign("u0", b"m")
    except SigningError as error:
        return error
    return None


async def outcome_of(results: Any) -> SigningError | None:
    """Return the error of the next result."""
    found = (await anext(results)).outcome
    return found if isinstance(found, SigningError) else None


async def test_a_client_that_is_not_open_says_so(service: Service) -> None:
    """Before and after."""
    client = service.client(pinned_keys=PINNED)
    for call in (client.sign("u0", b"m"), client.generate("u0"), anext(client.sign_many(requests(1)))):
        with pytest.raises(RuntimeError, match="async with"):
            await call
    async with client:
        pass
    with pytest.raises(RuntimeError, match="async with"):
        await client.sign("u0", b"m")


async def test_fifo_queues(service: Service) -> None:
    """The group is the user id, the deduplication id the job id."""
    url = f"{SIGN}.fifo"
    service.queues[url] = []
    async with service.client(pinned_keys=PINNED, sign_queue_url=url) as client:
        made = await client.sign("u0", b"m")
    (entry,) = service.named("send_message_batch")[0].entries
    assert (entry["MessageGroupId"], entry["MessageDeduplicationId"]) == ("u0", made.job_id)
