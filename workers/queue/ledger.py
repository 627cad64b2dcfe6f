"""All messages in flight: whose turn it is, what is next for each, and what a drain still allows. Pure.

Messages of one group of a FIFO queue are worked on one after another, also when they came by different receives;
the next has its turn when the one before is deleted. When that one is not, those behind it are given back: SQS offers
them again after it. Nothing is remembered of a group that has no message in flight.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from workers.lifecycle import Action, Event, State
from workers.queue.delivery import Delivery

Work: TypeAlias = dict[Action, list[Delivery]]
"""What is to be done next, gathered over messages so that it shares calls."""


class Ledger:
    """The messages in flight of one engine. `concluded` is called once for each when nothing more is done with it."""

    def __init__(self, concluded: Callable[[Delivery], None]) -> None:
        self._concluded = concluded
        self._groups: dict[str, deque[Delivery]] = {}
        self._in_flight: dict[Delivery, None] = {}  # in the order in which they came
        self._draining = False
        self.counts: Counter[State] = Counter()

    @property
    def in_flight(self) -> int:
        """How many messages are not concluded."""
        return len(self._in_flight)

    @property
    def draining(self) -> bool:
        """Whether nothing new is started."""
        return self._draining

    def admit(self, deliveries: Iterable[Delivery], now: float) -> Work:
        """Take the messages of one receive, in its order."""
        work: Work = {}
        for delivery in deliveries:
            self._in_flight[delivery] = None
            group = delivery.group_id
            if self._draining:
                self._feed(delivery, Event.HELD, now, work)
            elif group is None:
                self._begin(delivery, now, work)
            elif (line := self._groups.get(group)) is not None:
                line.append(delivery)
            else:
                self._groups[group] = deque((delivery,))
                self._begin(delivery, now, work)
        return work

    def give_back(self, deliveries: Iterable[Delivery], now: float) -> Work:
        """Take messages only to release them at once: working on anything is not allowed now."""
        work: Work = {}
        for delivery in deliveries:
            self._in_flight[delivery] = None
            self._feed(delivery, Event.HELD, now, work)
        return work

    def feed(self, results: Iterable[tuple[Delivery, Event]], now: float) -> Work:
        """Take what became of messages that had an action."""
        work: Work = {}
        for delivery, event in results:
            self._feed(delivery, event, now, work)
        return work

    def drain(self, now: float) -> Work:
        """Start nothing new from here on; what waits for its turn is given back."""
        self._draining = True
        work: Work = {}
        for group in list(self._groups):
            self._hold_line(self._groups.pop(group), now, work)
        return work

    def beats(self, now: float) -> list[tuple[Delivery, int]]:
        """Return the messages whose heartbeat is due, each with the visibility timeout to ask for."""
        return [(d, timeout_s) for d in self._in_flight if (timeout_s := d.life.beat(now)) is not None]

    def beat_ended(self, beats: Iterable[tuple[Delivery, int, Event]], asked_at: float, now: float) -> Work:
        """Take the results of heartbeats: message, visibility timeout that was asked for, event."""
        work: Work = {}
        for delivery, timeout_s, event in beats:
            was_held = delivery.life.is_held
            action = delivery.life.beat_ended(event, asked_at, timeout_s, now)
            if action is not None:
                work.setdefault(action, []).append(delivery)
            elif was_held:
                self._conclude(delivery, now, work)
        return work

    def _begin(self, delivery: Delivery, now: float, work: Work) -> None:
        if delivery.job is None and delivery.life.on(Event.TURN, now) is not None:
            self._feed(delivery, Event.REFUSED, now, work)  # a body that is no job needs no handler
        else:
            self._feed(delivery, Event.TURN, now, work)

    def _feed(self, delivery: Delivery, event: Event, now: float, work: Work) -> None:
        action = delivery.life.on(event, now)
        if action is not None:
            work.setdefault(action, []).append(delivery)
        elif delivery.life.is_over:
            self._conclude(delivery, now, work)

    def _conclude(self, delivery: Delivery, now: float, work: Work) -> None:
        del self._in_flight[delivery]
        self.counts[delivery.life.state] += 1
        self._concluded(delivery)
        group = delivery.group_id
        line = self._groups.get(group) if group is not None else None
        if group is None or line is None or line[0] is not delivery:
            return
        if delivery.life.state is State.DELETED and len(line) > 1:
            line.popleft()
            self._begin(line[0], now, work)
        else:
            self._hold_line(self._groups.pop(group), now, work)

    def _hold_line(self, line: deque[Delivery], now: float, work: Work) -> None:
        line.popleft()
        for delivery in line:
            self._feed(delivery, Event.HELD, now, work)
