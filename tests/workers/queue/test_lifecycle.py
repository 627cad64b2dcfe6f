"""The life cycle keeps its promises whatever happens: any order of events, crashes, lost heartbeats, drains, time."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from config.engine import SQS_MAX_VISIBILITY_S
from protocol.jobs import SignJob
from workers.lifecycle import FINAL, Action, Event, Life, Policy, State, full_jitter_ceiling
from workers.queue.delivery import Delivery
from workers.queue.ledger import Ledger, Work

POLICY = Policy(
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
WITHOUT_COPIES = replace(POLICY, has_dead_letter_queue=False)


def _half() -> float:
    return 0.5


@dataclass(eq=False)
class Message:
    """What SQS knows of a message: the truth, which the engine only believes."""

    number: int
    group: str | None
    receive_count: int = 0
    visible_at: float = 0.0
    received_at: float = 0.0
    replied: bool = False
    copied: bool = False
    deleted: bool = False
    holder: Delivery | None = None


def _delivery(message: Message, policy: Policy, now: float) -> Delivery:
    return Delivery(
        life=Life(policy, message.receive_count, now),
        arrived_at=now,
        message_id=f"m-{message.number}",
        receipt_handle=f"h-{message.number}-{message.receive_count}",
        body="",
        receive_count=message.receive_count,
        group_id=message.group,
        trace_header=None,
        attributes={},
        job=SignJob(type="sign", job_id=f"s-{message.number}", userid="u1", message="m"),
        job_id=f"s-{message.number}",
        job_type="sign",
        userid="u1",
        reply_queue_url="",
        error=None,
    )


class QueueWorld(RuleBasedStateMachine):
    """One queue and one worker that crashes; actions are carried out one by one, in any order, or never answered."""

    @initialize(
        has_dead_letter_queue=st.booleans(), groups=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=6)
    )
    def fill(self, has_dead_letter_queue: bool, groups: list[str | None]) -> None:  # noqa: FBT001 - a drawn value
        """Messages in and out of groups."""
        self.policy = POLICY if has_dead_letter_queue else WITHOUT_COPIES
        self.now = 1_000.0
        self.messages = [Message(number, group) for number, group in enumerate(groups)]
        self.started: dict[str, list[int]] = {}
        self._boot()

    def _boot(self) -> None:
        self.concluded: list[Delivery] = []
        self.ledger = Ledger(self.concluded.append)
        self.todo: list[tuple[Action, Delivery]] = []
        self.beating: list[tuple[Delivery, int, float]] = []
        self.settlements: dict[Delivery, Action] = {}
        self.source: dict[Delivery, Message] = {}

    def _take(self, work: Work) -> None:
        for action, deliveries in work.items():
            for delivery in deliveries:
                assert self.now < delivery.life.visible_until, "an action after the visibility deadline"
                assert delivery.life.state is not State.LOST
                if action is Action.WORK:
                    assert not self.ledger.draining, "a drain starts nothing"
                    others = [d for a, d in self.todo if a is Action.WORK and d.group_id == delivery.group_id]
                    assert delivery.group_id is None or others == [], "one job of a group at a time"
                if action in {Action.DELETE, Action.RELEASE}:
                    assert not delivery.life.extending, "no settlement beside a heartbeat"
                    assert self.settlements.setdefault(delivery, action) is action, "one kind of settlement"
                self.todo.append((action, delivery))

    @rule(count=st.integers(1, 10))
    def receive(self, count: int) -> None:
        """Hand out what is visible, as SQS does."""
        busy = {m.group for m in self.messages if m.group and not m.deleted and self.now < m.visible_at}
        ready = [m for m in self.messages if not m.deleted and self.now >= m.visible_at and m.group not in busy][:count]
        deliveries = []
        for message in ready:
            message.receive_count += 1
            message.received_at = self.now
            message.visible_at = self.now + self.policy.visibility_timeout_s
            message.replied = message.copied = False
            message.holder = _delivery(message, self.policy, self.now + 1.0)  # the answer takes a second
            self.source[message.holder] = message
            deliveries.append(message.holder)
        self.now += 1.0
        self._take(self.ledger.admit(deliveries, self.now))

    @rule(seconds=st.sampled_from([0.5, 5.0, 14.0, 40.0, 61.0, 50_000.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @precondition(lambda self: self.todo)
    @rule(data=st.data())
    def carry_out(self, data: st.DataObject) -> None:
        """Perform one action, or fail, or perform it and lose the answer; then tell the ledger."""
        action, delivery = self.todo.pop(data.draw(st.integers(0, len(self.todo) - 1)))
        message = self.source[delivery]
        if action is Action.WORK:
            event = data.draw(st.sampled_from([Event.ANSWERED, Event.FAILED, Event.REFUSED, Event.HELD]))
        else:
            event = data.draw(st.sampled_from([Event.DONE, Event.BROKE, Event.UNDONE]))
            if event is Event.DONE or data.draw(st.booleans()):
                self._happen(action, delivery, message)
        self._take(self.ledger.feed([(delivery, event)], self.now))

    @precondition(lambda self: self.todo)
    @rule()
    def carry_out_all(self) -> None:
        """Perform whatever there is, successfully, until nothing is left to do."""
        while self.todo:
            action, delivery = self.todo.pop(0)
            self._happen(action, delivery, self.source[delivery])
            event = Event.ANSWERED if action is Action.WORK else Event.DONE
            self._take(self.ledger.feed([(delivery, event)], self.now))

    def _happen(self, action: Action, delivery: Delivery, message: Message) -> None:
        is_ours = message.holder is delivery
        if action is Action.REPLY:
            message.replied = True
        elif action is Action.COPY:
            assert self.policy.has_dead_letter_queue
            message.copied = True
        elif is_ours and action is Action.DELETE:
            assert message.replied or message.copied, "a delete before the result is durable"
            message.deleted = True
        elif is_ours and action is Action.RELEASE and self.now < message.visible_at:
            delay_s = delivery.life.release_delay_s(self.now, _half)
            assert self.now + delay_s <= message.received_at + SQS_MAX_VISIBILITY_S
            message.visible_at = self.now + delay_s

    @rule()
    def look_for_heartbeats(self) -> None:
        """Let the interval pass, and begin the heartbeats that are due."""
        self.now += self.policy.beat_interval_s
        for delivery, timeout_s in self.ledger.beats(self.now):
            assert 0 < timeout_s <= self.policy.visibility_timeout_s
            assert delivery not in self.settlements, "a heartbeat after the settlement began"
            assert self.now + timeout_s <= self.source[delivery].received_at + self.policy.max_extension_s
            self.beating.append((delivery, timeout_s, self.now))

    @precondition(lambda self: self.beating)
    @rule(data=st.data())
    def end_heartbeat(self, data: st.DataObject) -> None:
        """End one heartbeat: done, broken (perhaps done unseen), or refused."""
        delivery, timeout_s, asked_at = self.beating.pop(data.draw(st.integers(0, len(self.beating) - 1)))
        message = self.source[delivery]
        event = data.draw(st.sampled_from([Event.DONE, Event.BROKE, Event.UNDONE]))
        if event is not Event.UNDONE and message.holder is delivery and asked_at < message.visible_at:
            message.visible_at = max(message.visible_at, asked_at + timeout_s)
        self._take(self.ledger.beat_ended([(delivery, timeout_s, event)], asked_at, self.now))

    @rule()
    def drain(self) -> None:
        """Begin to drain."""
        self._take(self.ledger.drain(self.now))

    @rule(share=st.integers(0, 2))
    def give_back(self, share: int) -> None:
        """A closed gate: what a poll brings is released without work."""
        ready = [m for m in self.messages if not m.deleted and self.now >= m.visible_at and m.group is None][:share]
        for message in ready:
            message.receive_count += 1
            message.received_at = self.now
            message.visible_at = self.now + self.policy.visibility_timeout_s
            message.holder = _delivery(message, self.policy, self.now)
            self.source[message.holder] = message
            work = self.ledger.give_back([message.holder], self.now)
            assert work == {Action.RELEASE: [message.holder]}
            assert message.holder.life.release_delay_s(self.now, _half) == 0
            self._take(work)

    @rule()
    def crash(self) -> None:
        """Kill the worker between any two actions, and start another."""
        self._boot()

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What is in flight has an action, a heartbeat or a job before it in its group; the rest was concluded once."""
        assert len(set(self.concluded)) == len(self.concluded)
        assert all(delivery.life.state in FINAL for delivery in self.concluded)
        assert self.ledger.in_flight == len(self.source) - len(self.concluded)
        assert sum(self.ledger.counts.values()) == len(self.concluded)
        busy = {delivery for _, delivery in self.todo} | {d for d, _, _ in self.beating if d.life.is_held}
        groups = {delivery.group_id for delivery in busy if delivery.group_id is not None}
        for delivery in set(self.source) - set(self.concluded) - busy:
            assert delivery.life.state in {State.WAITING, State.LOST}
            assert delivery.group_id in groups, "waits for nobody"


QueueWorld.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestQueueWorld = QueueWorld.TestCase


def _life(receive_count: int = 1, policy: Policy = POLICY) -> Life:
    return Life(policy, receive_count, 0.0)


def _after(life: Life, *events: Event) -> Action | None:
    action = None
    for event in events:
        action = life.on(event, 1.0)
    return action


@pytest.mark.parametrize(
    ("events", "action", "state"),
    [
        ([Event.TURN], Action.WORK, State.WORKING),
        ([Event.HELD], Action.RELEASE, State.RELEASING),
        ([Event.TURN, Event.ANSWERED], Action.REPLY, State.REPLYING),
        ([Event.TURN, Event.ANSWERED, Event.DONE], Action.DELETE, State.DELETING),
        ([Event.TURN, Event.ANSWERED, Event.DONE, Event.DONE], None, State.DELETED),
        ([Event.TURN, Event.ANSWERED, Event.BROKE], Action.REPLY, State.REPLYING),
        ([Event.TURN, Event.ANSWERED, Event.BROKE, Event.BROKE], Action.RELEASE, State.RELEASING),
        ([Event.TURN, Event.REFUSED], Action.REPLY, State.REPORTING),
        ([Event.TURN, Event.REFUSED, Event.DONE], Action.COPY, State.COPYING),
        ([Event.TURN, Event.REFUSED, Event.DONE, Event.UNDONE], Action.RELEASE, State.RELEASING),
        ([Event.TURN, Event.REFUSED, Event.DONE, Event.DONE], Action.DELETE, State.DELETING),
        ([Event.TURN, Event.FAILED], Action.RELEASE, State.RELEASING),
        ([Event.TURN, Event.FAILED, Event.UNDONE], None, State.LAPSED),
    ],
)
def test_the_way_of_a_message(events: list[Event], action: Action | None, state: State) -> None:
    """The table, row by row."""
    life = _life()
    assert (_after(life, *events), life.state) == (action, state)


def test_last_receive_turns_failures_into_copies() -> None:
    """On the last receive a transient failure is reported, and an undeliverable reply becomes a dead-letter copy."""
    assert _after(life := _life(3), Event.TURN, Event.FAILED) is Action.REPLY
    assert life.state is State.REPORTING
    assert _after(life, Event.UNDONE) is Action.COPY
    assert _after(_life(3), Event.TURN, Event.ANSWERED, Event.UNDONE) is Action.COPY
    assert _after(_life(3, WITHOUT_COPIES), Event.TURN, Event.FAILED, Event.UNDONE) is Action.RELEASE
    assert _after(_life(3), Event.TURN, Event.FAILED, Event.DONE, Event.UNDONE) is Action.RELEASE


def test_event_that_cannot_happen_is_a_bug() -> None:
    """An event outside the table is an error, never ignored."""
    with pytest.raises(KeyError):
        _life().on(Event.DONE, 1.0)


def test_back_off_doubles_and_is_capped() -> None:
    """The ceiling is base * 2^(n-1) up to the cap, for any count."""
    assert [full_jitter_ceiling(1.0, 300.0, n) for n in (1, 2, 3, 9, 10, 100_000)] == [1, 2, 4, 256, 300, 300]


def test_heartbeat_stops_at_the_cap() -> None:
    """A heartbeat asks for less as the cap comes near, and for nothing when it would only shorten what there is."""
    policy = replace(POLICY, max_extension_s=100)
    life = Life(policy, 1, 0.0)
    life.on(Event.TURN, 0.0)
    asked = []
    for second in range(0, 120, 5):
        timeout_s = life.beat(float(second))
        if timeout_s is not None:
            asked.append((second, timeout_s))
            life.beat_ended(Event.DONE, float(second), timeout_s, float(second))
    assert asked == [(15, 60), (30, 60), (45, 53)]
    assert life.state is State.LOST


def test_settlement_waits_for_the_heartbeat_and_not_past_the_deadline() -> None:
    """A delete held for a heartbeat follows it; it is dropped when the heartbeat took until after the deadline."""
    for ended_at, event, expected in (
        (20.0, Event.DONE, Action.DELETE),
        (20.0, Event.BROKE, Action.DELETE),
        (58.0, Event.BROKE, None),
        (20.0, Event.UNDONE, None),
    ):
        life = _life()
        life.on(Event.TURN, 0.0)
        assert life.beat(15.0) == 60
        life.on(Event.ANSWERED, 16.0)
        assert life.on(Event.DONE, 17.0) is None
        assert life.is_held
        assert life.beat_ended(event, 15.0, 60, ended_at) is expected
        assert life.is_over == (expected is None)


def test_settlement_held_for_a_lost_heartbeat_is_concluded() -> None:
    """A heartbeat that ends as lost while a delete waits for it leaves nothing in flight, and no action."""
    concluded: list[Delivery] = []
    ledger = Ledger(concluded.append)
    delivery = _delivery(Message(1, None, receive_count=1), POLICY, 0.0)
    ledger.admit([delivery], 0.0)
    assert ledger.beats(15.0) == [(delivery, 60)]
    ledger.feed([(delivery, Event.ANSWERED)], 16.0)
    assert ledger.feed([(delivery, Event.DONE)], 17.0) == {}
    assert ledger.beat_ended([(delivery, 60, Event.UNDONE)], 15.0, 18.0) == {}
    assert (concluded, ledger.in_flight) == ([delivery], 0)


def test_job_whose_turn_comes_too_late_is_lost() -> None:
    """A message that waited in its group past its deadline is not begun."""
    concluded: list[Delivery] = []
    ledger = Ledger(concluded.append)
    first, second = (_delivery(Message(n, "a", receive_count=1), POLICY, 0.0) for n in (1, 2))
    second.job = None
    ledger.admit([first, second], 0.0)
    for event in (Event.ANSWERED, Event.DONE):
        ledger.feed([(first, event)], 1.0)
    assert ledger.feed([(first, Event.DONE)], 70.0) == {}
    assert ledger.counts == {State.DELETED: 1, State.LOST: 1}


def test_heartbeat_after_the_deadline_is_not_sent() -> None:
    """A heartbeat that comes too late, for a worker that hung, asks for nothing: the message may be somebody else's."""
    life = _life()
    life.on(Event.TURN, 0.0)
    assert life.beat(58.0) is None
    assert life.state is State.LOST
    assert life.on(Event.ANSWERED, 59.0) is None


def test_result_of_a_heartbeat_for_a_lost_message_is_ignored() -> None:
    """A message lost while its heartbeat was on its way stays lost."""
    life = _life()
    life.on(Event.TURN, 0.0)
    assert life.beat(15.0) == 60
    assert life.on(Event.ANSWERED, 59.0) is None
    assert life.beat_ended(Event.DONE, 15.0, 60, 60.0) is None
    assert life.state is State.LOST
