"""The engine on a clock that jumps, and on an SQS in memory that misbehaves on request and notes misuse."""

import asyncio
import json
import selectors
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from config.engine import EngineSettings
from protocol.errors import ErrorCode, SignerError
from protocol.jobs import Job, SignReply
from workers.queue.engine import Engine
from workers.queue.outcome import Answered, Failed, Outcome
from workers.queue.stopping import Stop

if TYPE_CHECKING:
    from workers.queue.gate import Gate

HOST = "https://sqs.eu-west-1.amazonaws.com/111122223333"
JOBS, REPLIES, DEAD = f"{HOST}/sign", f"{HOST}/reply", f"{HOST}/sign-dlq"
FIFO_JOBS, FIFO_REPLIES, FIFO_DEAD = f"{HOST}/sign.fifo", f"{HOST}/reply.fifo", f"{HOST}/sign-dlq.fifo"


class JumpingSelector(selectors.SelectSelector):
    """Sleeps no real time: it moves a clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Jump to the next timer."""
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        self.now += max(timeout, 0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual: twenty seconds of long polling take none."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give every test of this folder virtual time, except those that talk to real servers."""
    if item.get_closest_marker("stack"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": JumpingLoop}


@dataclass
class Fault:
    """What goes wrong with one call."""

    code: str | None = None
    """The whole call is refused with this code."""
    raises: Exception | None = None
    """The whole call ends in this, uncalled."""
    lost: bool = False
    """The call is carried out, its answer is lost."""
    entries: Mapping[int, tuple[str, bool]] = field(default_factory=dict)
    """Positions that fail: code, and whether the sender is blamed."""
    delay_s: float = 0.0


@dataclass(eq=False)
class Stored:
    """A message on a queue."""

    message_id: str
    body: str
    group: str | None
    attributes: Mapping[str, Any]
    system: dict[str, str]
    receive_count: int = 0
    visible_at: float = 0.0
    first_hidden_at: float | None = None
    handle: str = ""


@dataclass
class Call:
    """A call as it came."""

    at: float
    name: str
    url: str
    entries: Sequence[Mapping[str, Any]]


class MemorySqs:
    """Standard and FIFO queues with visibility, receipt handles, limits, and faults for calls to come."""

    def __init__(self) -> None:
        self.queues: dict[str, list[Stored]] = {}
        self.calls: list[Call] = []
        self.misuse: list[str] = []
        self._faults: dict[str, deque[Fault]] = {}
        self._deleted: set[str] = set()
        self._handles = 0

    def fail_next(self, name: str, *faults: Fault) -> None:
        """Let the next calls of this name go wrong, one fault each."""
        self._faults.setdefault(name, deque()).extend(faults)

    def put(self, url: str, body: str, *, message_id: str | None = None, group: str | None = None, **more: Any) -> None:
        """Put a message on a queue."""
        queue = self.queues.setdefault(url, [])
        message_id = message_id or f"m-{len(queue)}"
        queue.append(Stored(message_id, body, group, more.get("attributes", {}), more.get("system", {})))

    def bodies(self, url: str) -> list[dict[str, Any]]:
        """The messages of a queue, decoded."""
        return [json.loads(message.body) for message in self.queues.get(url, [])]

    def named(self, name: str) -> list[Call]:
        """The calls of one name."""
        return [call for call in self.calls if call.name == name]

    # What the engine calls

    async def receive_message(self, **request: Any) -> dict[str, Any]:
        """Long polling."""
        url, count = request["QueueUrl"], request["MaxNumberOfMessages"]
        fault = self._begin("receive_message", url, ())
        await asyncio.sleep(0.001 + fault.delay_s)
        self._refuse(fault)
        ends = _now() + request["WaitTimeSeconds"]
        while not (ready := self._ready(url, count)) and _now() < ends:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        messages = [self._hand_out(message, request["VisibilityTimeout"]) for message in ready]
        self._lose(fault)
        return {"Messages": messages} if messages else {}

    async def send_message_batch(self, **request: Any) -> dict[str, Any]:
        """Send; duplicates by deduplication id are accepted and dropped on FIFO queues."""
        url, entries = request["QueueUrl"], request["Entries"]
        size = sum(len(entry["MessageBody"].encode()) for entry in entries)
        self._check(size <= 1_048_576, "batch of more than 1 MiB")

        def send(entry: Mapping[str, Any]) -> None:
            self._check(len(entry.get("MessageAttributes", {})) <= 10, "more than ten attributes")
            deduplication_id = entry.get("MessageDeduplicationId")
            self._check(url.endswith(".fifo") == (deduplication_id is not None), "deduplication id and queue disagree")
            queue = self.queues.setdefault(url, [])
            if deduplication_id is None or all(m.system["deduplication"] != deduplication_id for m in queue):
                system = {"deduplication": str(deduplication_id)}
                trace = entry.get("MessageSystemAttributes", {}).get("AWSTraceHeader")
                if trace is not None:
                    system["AWSTraceHeader"] = trace["StringValue"]
                attributes = entry.get("MessageAttributes", {})
                self.put(
                    url, entry["MessageBody"], group=entry.get("MessageGroupId"), attributes=attributes, system=system
                )

        return await self._batch("send_message_batch", url, entries, send)

    async def delete_message_batch(self, **request: Any) -> dict[str, Any]:
        """Delete; what is gone already is a success, as on AWS."""
        url = request["QueueUrl"]

        def delete(entry: Mapping[str, Any]) -> None:
            message = self._holder(url, entry["ReceiptHandle"])
            if message is not None:
                self._check(_now() < message.visible_at, "delete after the visibility deadline")
                self.queues[url].remove(message)
            self._deleted.add(entry["ReceiptHandle"])

        return await self._batch("delete_message_batch", url, request["Entries"], delete)

    async def change_message_visibility_batch(self, **request: Any) -> dict[str, Any]:
        """Hide or show messages that are in flight."""
        url = request["QueueUrl"]

        def change(entry: Mapping[str, Any]) -> None:
            self._check(entry["ReceiptHandle"] not in self._deleted, "visibility changed after the delete")
            message = self._holder(url, entry["ReceiptHandle"])
            if message is None or _now() >= message.visible_at or message.first_hidden_at is None:
                raise LookupError
            message.visible_at = _now() + entry["VisibilityTimeout"]
            self._check(message.visible_at <= message.first_hidden_at + 43_200, "hidden for more than 12 hours")

        return await self._batch("change_message_visibility_batch", url, request["Entries"], change)

    # Inside

    async def _batch(
        self, name: str, url: str, entries: Sequence[Mapping[str, Any]], act: Callable[[Mapping[str, Any]], None]
    ) -> dict[str, Any]:
        fault = self._begin(name, url, entries)
        ids = [entry["Id"] for entry in entries]
        self._check(0 < len(ids) <= 10, "batch of none or more than ten")
        if len(set(ids)) != len(ids):
            raise _client_error("AWS.SimpleQueueService.BatchEntryIdsNotDistinct")
        await asyncio.sleep(0.001 + fault.delay_s)
        self._refuse(fault)
        succeeded: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for position, entry in enumerate(entries):
            problem = fault.entries.get(position)
            if problem is None:
                try:
                    act(entry)
                except LookupError:
                    problem = ("ReceiptHandleIsInvalid", True)
            if problem is None:
                succeeded.append({"Id": entry["Id"]})
            else:
                failed.append({"Id": entry["Id"], "Code": problem[0], "SenderFault": problem[1]})
        self._lose(fault)
        answer: dict[str, Any] = {"Successful": succeeded}
        return {**answer, "Failed": failed} if failed else answer

    def _begin(self, name: str, url: str, entries: Sequence[Mapping[str, Any]]) -> Fault:
        self.calls.append(Call(_now(), name, url, entries))
        faults = self._faults.get(name)
        return faults.popleft() if faults else Fault()

    def _ready(self, url: str, count: int) -> list[Stored]:
        queue, now = self.queues.get(url, []), _now()
        busy = {m.group for m in queue if now < m.visible_at} if url.endswith(".fifo") else set()
        return [m for m in queue if now >= m.visible_at and m.group not in busy][:count]

    def _hand_out(self, message: Stored, visibility_timeout_s: int) -> dict[str, Any]:
        self._handles += 1
        message.handle = f"handle-{self._handles}"
        message.receive_count += 1
        message.first_hidden_at = _now()
        message.visible_at = _now() + visibility_timeout_s
        system = {"ApproximateReceiveCount": str(message.receive_count), **message.system}
        if message.group is not None:
            system["MessageGroupId"] = message.group
        return {
            "MessageId": message.message_id,
            "ReceiptHandle": message.handle,
            "Body": message.body,
            "Attributes": system,
            "MessageAttributes": message.attributes,
        }

    def _holder(self, url: str, handle: str) -> Stored | None:
        return next((m for m in self.queues.get(url, []) if m.handle == handle), None)

    def _check(self, holds: bool, problem: str) -> None:  # noqa: FBT001 - reads as an assertion
        if not holds:
            self.misuse.append(problem)

    @staticmethod
    def _refuse(fault: Fault) -> None:
        if fault.raises is not None:
            raise fault.raises
        if fault.code is not None:
            raise _client_error(fault.code)

    @staticmethod
    def _lose(fault: Fault) -> None:
        if fault.lost:
            raise ReadTimeoutError(endpoint_url=HOST)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "Call")


class ScriptedHandler:
    """Answers each job, unless the script says otherwise for its next tries."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.script: dict[str, deque[Outcome | Exception | asyncio.Event | float]] = {}
        self.running = 0
        self.cancelled = 0

    @property
    def job_type(self) -> Literal["generate", "sign"]:
        """It signs."""
        return "sign"

    @property
    def seen(self) -> list[str]:
        """Job ids in the order in which they came."""
        return [job_id for call in self.calls for job_id in call]

    def plan(self, job_id: str, *steps: Outcome | Exception | asyncio.Event | float) -> None:
        """For the next tries of a job: an outcome, an error to raise, an event to wait for, seconds to take."""
        self.script.setdefault(job_id, deque()).extend(steps)

    async def handle(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Follow the script."""
        self.calls.append([job.job_id for job in jobs])
        self.running += 1
        try:
            return [await self._do(job) for job in jobs]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _do(self, job: Job) -> Outcome:
        await asyncio.sleep(0)
        steps = self.script.get(job.job_id)
        step = steps.popleft() if steps else None
        if isinstance(step, Exception):
            raise step
        if isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif step is not None:
            return step
        return Answered(SignReply(job_id=job.job_id, userid=job.userid or "", signature="5a", publickey="04"))


class Rig:
    """An engine, its queues and its handler."""

    def __init__(self) -> None:
        self.sqs = MemorySqs()
        self.handler = ScriptedHandler()
        self.stop = Stop()
        self.gate: Gate | None = None
        self.engine: Engine

    def put(self, *job_ids: str, url: str = JOBS, group: str | None = None, **fields: Any) -> None:
        """Put sign jobs on the queue."""
        for job_id in job_ids:
            body = {"type": "sign", "job_id": job_id, "userid": "u1", "message": "m", **fields}
            self.sqs.put(url, json.dumps(body), group=group)

    def answered(self, url: str = REPLIES) -> list[str]:
        """Job ids of the good replies, in their order."""
        return [body["job_id"] for body in self.sqs.bodies(url) if body["status"] == "ok"]

    def errors(self, url: str = REPLIES) -> dict[str, str]:
        """Code by job id of the error replies."""
        return {b["job_id"]: b["error"]["code"] for b in self.sqs.bodies(url) if b["status"] == "error"}

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let virtual time pass until something holds; it must within a virtual day."""
        async with asyncio.timeout(86_400):
            while not holds():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.05)

    async def until_empty(self, url: str = JOBS) -> None:
        """Wait until every message of a queue is deleted."""
        await self.until(lambda: not self.sqs.queues.get(url))

    def build(self, **settings: Any) -> Engine:
        """Make the engine; without more, a standard queue with a dead-letter queue."""
        urls = {"queue_url": JOBS, "reply_queue_url": REPLIES, "dead_letter_queue_url": DEAD}
        self.engine = Engine(
            EngineSettings.model_validate({**urls, **settings}),
            self.handler,
            cast("Any", self.sqs),
            clock=asyncio.get_running_loop().time,
            uniform=lambda: 0.5,
            gate=self.gate,
        )
        return self.engine

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncGenerator[Engine, None]:
        """Run the engine, and drain it at the end."""
        engine = self.build(**settings)
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.run(self.stop))
            yield engine
            if not self.stop.draining.is_set():
                self.stop.request()

    @asynccontextmanager
    async def running_fifo(self, **settings: Any) -> AsyncGenerator[Engine, None]:
        """The same with FIFO queues throughout."""
        urls = {"queue_url": FIFO_JOBS, "reply_queue_url": FIFO_REPLIES, "dead_letter_queue_url": FIFO_DEAD}
        async with self.running(**{**urls, **settings}) as engine:
            yield engine


def failed(code: ErrorCode) -> Failed:
    """A failure with a code."""
    return Failed(SignerError(code))


@pytest.fixture
def failure() -> Callable[[ErrorCode], Failed]:
    """Make a failure with a code."""
    return failed


@pytest.fixture
def faults() -> type[Fault]:
    """Make faults."""
    return Fault


@pytest.fixture
def rig() -> Rig:
    """An engine, its queues and its handler, after which no misuse of SQS is tolerated: see `no_misuse`."""
    return Rig()


@pytest.fixture(autouse=True)
def no_misuse(rig: Rig) -> Any:
    """Whatever a test does: no limit of SQS is broken, and no handle is used that is not ours any more."""
    yield
    assert rig.sqs.misuse == []
