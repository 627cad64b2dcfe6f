"""The queue engine of one worker process: receives jobs, hands them to the handler, settles every message.

The decisions are those of `workers.queue.ledger` and `workers.lifecycle`; this shell performs the actions it is given
and feeds back what came of them.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from config.engine import EngineSettings
from protocol.clock import Clock
from protocol.errors import ErrorCode, SignerError
from protocol.jobs import GenerateReply, Job, SignBatchReply, SignReply
from workers.lifecycle import Action, Event, Policy, State, full_jitter_ceiling
from workers.queue.delivery import Delivery, MessageReader
from workers.queue.gate import AllOpen, Gate
from workers.queue.intake import Intake
from workers.queue.ledger import Ledger, Work
from workers.queue.letters import reply_bodies
from workers.queue.outcome import Answered, Failed, JobHandler, Outcome
from workers.queue.settlement import Settlement
from workers.queue.slots import Slots
from workers.queue.sqs import SqsCalls, queue_name
from workers.queue.stopping import InterruptedWaitError, Interrupts, Stop
from workers.queue.visibility import VisibilityKeeper
from workers.stage_times import Stage, StageTimes

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

_STAGES: Final = {
    Action.WORK: Stage.WORK,
    Action.REPLY: Stage.REPLY,
    Action.COPY: Stage.COPY,
    Action.DELETE: Stage.DELETE,
    Action.RELEASE: Stage.RELEASE,
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What the health endpoint and telemetry read.

    Attributes:
        last_poll_age_s: seconds since a poll last succeeded.
        in_flight: messages that are not settled.
        draining: whether nothing new is received.
        answered: jobs whose handler gave a reply.
        failures: failed jobs by code, each failed try counted.
        settled: messages by their last state: deleted, released, lapsed, lost.
    """

    last_poll_age_s: float
    in_flight: int
    draining: bool
    answered: int
    failures: Mapping[ErrorCode, int]
    settled: Mapping[State, int]


class _AbandonedError(Exception):
    """The time for the last releases and deletes ran out."""


class Engine:
    """Runs once. `clock` gives monotonic seconds; `uniform` a random number in [0, 1), for back-off only."""

    def __init__(
        self,
        settings: EngineSettings,
        handler: JobHandler,
        client: "SQSClient",
        *,
        clock: Clock,
        uniform: Callable[[], float],
        gate: Gate | None = None,
        times: StageTimes | None = None,
    ) -> None:
        calls = SqsCalls(client, settings.call_timeout_s)
        self._settings = settings
        self._handler = handler
        self._clock = clock
        self._uniform = uniform
        self._gate = gate or AllOpen()
        self._times = times or StageTimes()
        self._group = asyncio.TaskGroup()
        self._slots = Slots(settings.slots, settings.slot_linger_ms / 1000)
        self._ledger = Ledger(self._concluded)
        self._settlement = Settlement(settings, calls, self._group, clock=clock, uniform=uniform)
        self._keeper = VisibilityKeeper(settings, calls, self._ledger, self._group, perform=self._perform, clock=clock)
        self._intake = Intake(
            settings,
            calls,
            MessageReader(settings, _policy(settings), handler.job_type),
            self._slots,
            self._gate,
            arrived=self._arrived,
            clock=clock,
            uniform=uniform,
        )
        self._carry_out: dict[Action, Callable[[Sequence[Delivery]], Awaitable[Sequence[Event]]]] = {
            Action.WORK: self._work,
            Action.REPLY: self._settlement.reply,
            Action.COPY: self._settlement.copy,
            Action.DELETE: self._settlement.delete,
            Action.RELEASE: self._settlement.release,
        }
        self._handling = Interrupts()
        self._empty = asyncio.Event()
        self._answered = 0
        self._failures: Counter[ErrorCode] = Counter()

    @property
    def status(self) -> EngineStatus:
        """A snapshot."""
        return EngineStatus(
            last_poll_age_s=self._clock() - self._intake.last_poll_at,
            in_flight=self._ledger.in_flight,
            draining=self._ledger.draining,
            answered=self._answered,
            failures=dict(self._failures),
            settled=dict(self._ledger.counts),
        )

    async def run(self, stop: Stop) -> None:
        """Work until `stop` is requested, then drain. A second request, or the drain deadline, stops.

        Returns when every message is settled, or when `settle_timeout_s` after a stop some still are not: these come
        again after their visibility timeout.
        """
        try:
            async with self._group:
                helpers = (
                    self._group.create_task(self._keeper.run(), name="visibility keeper"),
                    self._group.create_task(self._end(stop), name="end"),
                )
                await self._intake.run()
                while self._ledger.in_flight:
                    self._empty.clear()
                    await self._empty.wait()
                for helper in helpers:
                    helper.cancel()
        except* _AbandonedError:
            log.critical("jobs_abandoned", queue=self._queue, count=self._ledger.in_flight)

    async def _end(self, stop: Stop) -> None:
        await stop.draining.wait()
        log.info("drain_started", queue=self._queue, count=self._ledger.in_flight)
        self._intake.drain()
        self._perform(self._ledger.drain(self._clock()))
        try:
            async with asyncio.timeout(self._settings.drain_deadline_s):
                await stop.stopping.wait()
        except TimeoutError:
            log.warning("drain_deadline_passed", queue=self._queue, count=self._ledger.in_flight)
        self._intake.stop()
        self._handling.interrupt()
        await asyncio.sleep(self._settings.settle_timeout_s)
        raise _AbandonedError

    def _arrived(self, deliveries: Sequence[Delivery]) -> None:
        now = self._clock()
        self._slots.owe(sum(delivery.slots for delivery in deliveries) - len(deliveries))
        if not self._gate.is_open:
            self._perform(self._ledger.give_back(deliveries, now))
            return
        for delivery in deliveries:
            if delivery.error is not None:
                self._count_failure(delivery, delivery.error)
        self._perform(self._ledger.admit(deliveries, now))

    def _concluded(self, delivery: Delivery) -> None:
        self._slots.give_back(delivery.slots)
        if self._ledger.in_flight == 0:
            self._empty.set()
        state = delivery.life.state
        if state in {State.LOST, State.LAPSED}:
            self._warn("job_lost" if state is State.LOST else "job_lapsed", delivery)

    # Actions

    def _perform(self, work: Work) -> None:
        for action, deliveries in work.items():
            self._group.create_task(self._follow(action, deliveries), name=action.name)

    async def _follow(self, action: Action, deliveries: Sequence[Delivery]) -> None:
        """Perform an action, and what follows from it. When ways part, each goes on in a task of its own."""
        while True:
            events = await self._act(action, deliveries)
            work = self._ledger.feed(zip(deliveries, events, strict=True), self._clock())
            if not work:
                return
            action, deliveries = work.popitem()
            self._perform(work)

    async def _act(self, action: Action, deliveries: Sequence[Delivery]) -> Sequence[Event]:
        if tries := deliveries[0].life.tries:  # they broke together
            cap_s = self._settings.call_timeout_s
            await asyncio.sleep(
                self._uniform() * full_jitter_ceiling(self._settings.call_backoff_ms / 1000, cap_s, tries)
            )
        started_at = self._clock()
        events = await self._carry_out[action](deliveries)
        ended_at = self._clock()
        self._times.add(_STAGES[action], ended_at - started_at)
        if action is Action.DELETE and events[0] is Event.DONE:
            self._times.add(Stage.JOB, ended_at - deliveries[0].arrived_at)
        return events

    async def _work(self, deliveries: Sequence[Delivery]) -> Sequence[Event]:
        jobs = [delivery.job for delivery in deliveries if delivery.job is not None]
        try:
            timeout_s = self._settings.handler_timeout_s
            outcomes = await self._handling.run(lambda: self._handler.handle(jobs), timeout_s)
        except InterruptedWaitError:
            return [Event.HELD] * len(deliveries)
        except TimeoutError:
            outcomes = _all_failed(jobs, ErrorCode.DEADLINE_EXCEEDED)
        except Exception as error:  # noqa: BLE001 - a handler's bug must not end the jobs beside it
            # By its type only: a text or traceback could carry what a log must not have.
            log.critical("handler_failed", queue=self._queue, code=type(error).__name__, count=len(jobs))
            outcomes = _all_failed(jobs, ErrorCode.INTERNAL)
        if len(outcomes) != len(jobs):
            log.critical("handler_miscounted", queue=self._queue, count=len(jobs))
            outcomes = _all_failed(jobs, ErrorCode.INTERNAL)
        return [self._judge(delivery, outcome) for delivery, outcome in zip(deliveries, outcomes, strict=True)]

    def _judge(self, delivery: Delivery, outcome: Outcome) -> Event:
        if isinstance(outcome, Answered):
            self._answered += 1
            delivery.replies = self._bodies(outcome.reply)
            return Event.ANSWERED
        delivery.error = outcome.error
        if outcome.reply is not None:
            delivery.replies = self._bodies(outcome.reply)
        self._count_failure(delivery, outcome.error)
        return Event.FAILED if outcome.error.code.retryable else Event.REFUSED

    def _bodies(self, reply: GenerateReply | SignReply | SignBatchReply) -> tuple[str, ...]:
        return reply_bodies(reply, self._settings.max_batch_bytes)

    def _count_failure(self, delivery: Delivery, error: SignerError) -> None:
        self._failures[error.code] += 1
        self._warn("job_failed", delivery)

    def _warn(self, event: str, delivery: Delivery) -> None:
        log.warning(
            event,
            queue=self._queue,
            job_id=delivery.job_id,
            userid=delivery.userid,
            message_id=delivery.message_id,
            code=None if delivery.error is None else delivery.error.code,
            receive_count=delivery.receive_count,
        )

    @property
    def _queue(self) -> str:
        return queue_name(self._settings.queue_url)


def _all_failed(jobs: Sequence[Job], code: ErrorCode) -> Sequence[Outcome]:
    return [Failed(SignerError(code))] * len(jobs)


def _policy(settings: EngineSettings) -> Policy:
    return Policy(
        visibility_timeout_s=settings.visibility_timeout_s,
        visibility_margin_s=settings.visibility_margin_s,
        beat_interval_s=settings.beat_interval_s,
        max_extension_s=settings.max_extension_s,
        max_receive_count=settings.max_receive_count,
        call_tries=settings.call_tries,
        backoff_base_s=settings.backoff_base_s,
        backoff_cap_s=settings.backoff_cap_s,
        has_dead_letter_queue=settings.dead_letter_queue_url is not None,
    )
