"""The life cycle of one received message, as a value machine: events in, at most one action out.

    WAITING --TURN--> WORKING --ANSWERED--> REPLYING --DONE--> DELETING --DONE--> DELETED
                         |                     |
                         |--REFUSED--> REPORTING --DONE--> COPYING --DONE--> DELETING
                         |
                         '--FAILED, HELD--> RELEASING --DONE--> RELEASED

What always holds (a test crashes, delays and loses between any two steps):

- a message is deleted only after its reply or its dead-letter copy was accepted;
- one settlement per receipt handle: the choice between delete and release is made once, and only repeated;
- no action after the visibility deadline, or after a heartbeat said that the handle is no longer ours;
- no settlement while a heartbeat is on its way: the later of the two calls would win, whichever that is;
- heartbeats and back-off together hide a message for at most 12 hours after its receive.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto, unique
from typing import Final

from config.engine import SQS_MAX_VISIBILITY_S


@unique
class State(Enum):
    """Where a message stands."""

    WAITING = auto()  # an earlier message of its group is not done
    WORKING = auto()  # with the handler
    REPLYING = auto()  # the reply is the whole result
    REPORTING = auto()  # an error reply, before the dead-letter copy
    COPYING = auto()  # to the dead-letter queue
    DELETING = auto()
    RELEASING = auto()
    DELETED = auto()
    RELEASED = auto()
    LAPSED = auto()  # the settlement itself failed: visibility runs out, the message comes again
    LOST = auto()  # visibility ran out, or the handle expired: somebody else may have it


@unique
class Event(Enum):
    """What happens to a message."""

    TURN = auto()  # nothing stands before it
    ANSWERED = auto()  # the handler's result is a reply
    FAILED = auto()  # not now, perhaps later
    REFUSED = auto()  # never
    HELD = auto()  # it must not be worked on here: give it back at once
    DONE = auto()  # the action was carried out
    BROKE = auto()  # the action failed and may be tried again
    UNDONE = auto()  # the action failed for good
    GIVEN_UP = auto()  # UNDONE on the last receive, and there is a dead-letter queue; the machine decides this


@unique
class Action(Enum):
    """What the shell is to do next, reporting DONE, BROKE or UNDONE (for WORK: what the handler said)."""

    WORK = auto()
    REPLY = auto()
    COPY = auto()
    DELETE = auto()
    RELEASE = auto()


FINAL: Final = frozenset({State.DELETED, State.RELEASED, State.LAPSED, State.LOST})
_BEATING: Final = frozenset({State.WAITING, State.WORKING, State.REPLYING, State.REPORTING, State.COPYING})
_SETTLING: Final = frozenset({Action.DELETE, Action.RELEASE})

TRANSITIONS: Final[dict[tuple[State, Event], tuple[State, Action | None]]] = {
    (State.WAITING, Event.TURN): (State.WORKING, Action.WORK),
    (State.WAITING, Event.HELD): (State.RELEASING, Action.RELEASE),
    (State.WORKING, Event.HELD): (State.RELEASING, Action.RELEASE),
    (State.WORKING, Event.FAILED): (State.RELEASING, Action.RELEASE),
    (State.WORKING, Event.ANSWERED): (State.REPLYING, Action.REPLY),
    (State.WORKING, Event.REFUSED): (State.REPORTING, Action.REPLY),
    (State.REPLYING, Event.DONE): (State.DELETING, Action.DELETE),
    (State.REPLYING, Event.BROKE): (State.REPLYING, Action.REPLY),
    (State.REPLYING, Event.UNDONE): (State.RELEASING, Action.RELEASE),
    (State.REPLYING, Event.GIVEN_UP): (State.COPYING, Action.COPY),
    (State.REPORTING, Event.DONE): (State.COPYING, Action.COPY),
    (State.REPORTING, Event.BROKE): (State.REPORTING, Action.REPLY),
    (State.REPORTING, Event.UNDONE): (State.RELEASING, Action.RELEASE),
    (State.REPORTING, Event.GIVEN_UP): (State.COPYING, Action.COPY),
    (State.COPYING, Event.DONE): (State.DELETING, Action.DELETE),
    (State.COPYING, Event.BROKE): (State.COPYING, Action.COPY),
    (State.COPYING, Event.UNDONE): (State.RELEASING, Action.RELEASE),
    (State.DELETING, Event.DONE): (State.DELETED, None),
    (State.DELETING, Event.BROKE): (State.DELETING, Action.DELETE),
    (State.DELETING, Event.UNDONE): (State.LAPSED, None),
    (State.RELEASING, Event.DONE): (State.RELEASED, None),
    (State.RELEASING, Event.BROKE): (State.RELEASING, Action.RELEASE),
    (State.RELEASING, Event.UNDONE): (State.LAPSED, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers of the life cycle; `config.engine.EngineSettings` checks and explains them."""

    visibility_timeout_s: int
    visibility_margin_s: float
    beat_interval_s: float
    max_extension_s: int
    max_receive_count: int
    call_tries: int
    backoff_base_s: float
    backoff_cap_s: float
    has_dead_letter_queue: bool


class Life:
    """One message under one receipt handle.

    Attributes:
        state: where it stands.
        tries: failed tries of the present action.
        visible_until: when SQS may give the message to somebody else.
    """

    __slots__ = ("_backs_off", "_beat_at", "_held", "_is_last", "_policy", "_receive_count", "_received_at",
                 "extending", "state", "tries", "visible_until")  # fmt: skip

    def __init__(self, policy: Policy, receive_count: int, now: float) -> None:
        self._policy = policy
        self._receive_count = receive_count
        self._received_at = now - policy.visibility_margin_s
        self._is_last = receive_count >= policy.max_receive_count
        self._beat_at = now + policy.beat_interval_s
        self._backs_off = False
        self._held: Action | None = None
        self.state = State.WAITING
        self.tries = 0
        self.extending = False
        self.visible_until = self._received_at + policy.visibility_timeout_s

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be done under this receipt handle."""
        return self.state in FINAL

    @property
    def is_held(self) -> bool:
        """Whether the settlement waits for a heartbeat to end."""
        return self._held is not None

    def on(self, event: Event, now: float) -> Action | None:
        """Take an event and return what to do next. What comes late for a lost message is dropped.

        Raises:
            KeyError: the event cannot happen in this state: a bug of the shell.
        """
        if self.state is State.LOST:
            return None
        if event is Event.BROKE:
            self.tries += 1
        event = self._judge(event)
        state, action = TRANSITIONS[self.state, event]
        if action is not None and now >= self.visible_until:
            state, action = State.LOST, None
        if state is not self.state:
            self.tries = 0
            self.state = state
            self._backs_off = event is not Event.HELD
        if self.extending and action in _SETTLING:
            self._held = action
            return None
        return action

    def _judge(self, event: Event) -> Event:
        if event is Event.FAILED and self._is_last:
            event = Event.REFUSED
        if event is Event.REFUSED and not self._policy.has_dead_letter_queue:
            return Event.ANSWERED  # the error reply is the whole result
        if event is Event.BROKE and self.tries >= self._policy.call_tries:
            event = Event.UNDONE
        if event is Event.UNDONE and self._is_last and self._policy.has_dead_letter_queue:
            return Event.GIVEN_UP if (self.state, Event.GIVEN_UP) in TRANSITIONS else event
        return event

    def release_delay_s(self, now: float, uniform: Callable[[], float]) -> int:
        """Return for how many seconds a release hides the message; `uniform` returns a number in [0, 1).

        Zero for a message that was held; otherwise exponential back-off with full jitter by the receive count.
        """
        if not self._backs_off:
            return 0
        ceiling = full_jitter_ceiling(self._policy.backoff_base_s, self._policy.backoff_cap_s, self._receive_count)
        left_s = self._received_at + SQS_MAX_VISIBILITY_S - now
        return max(0, min(math.ceil(uniform() * ceiling), math.floor(left_s)))

    # Heartbeat

    def beat(self, now: float) -> int | None:
        """Return the visibility timeout to ask for, when a heartbeat is due; report its end by `beat_ended`."""
        if self.extending or now < self._beat_at or self.state not in _BEATING:
            return None
        if now >= self.visible_until:
            self.state = State.LOST
            return None
        limit_s = math.floor(self._received_at + self._policy.max_extension_s - now)
        timeout_s = min(self._policy.visibility_timeout_s, limit_s)
        if now + timeout_s <= self.visible_until:
            return None  # the cap is reached: asking would only shorten what it has
        self.extending = True
        return timeout_s

    def beat_ended(self, event: Event, asked_at: float, timeout_s: int, now: float) -> Action | None:
        """Take the result of a heartbeat, and return the settlement that waited for it, if any.

        `DONE` counts from `asked_at`, when the call was made; `BROKE` is tried again at the next look; `UNDONE` means
        that the handle is no longer ours.
        """
        self.extending = False
        held, self._held = self._held, None
        if self.state is State.LOST:
            return None
        if event is Event.UNDONE:
            self.state = State.LOST
            return None
        if event is Event.DONE:
            self.visible_until = asked_at + timeout_s
            self._beat_at = asked_at + self._policy.beat_interval_s
        if held is not None and now >= self.visible_until:
            self.state = State.LOST
            return None
        return held


def full_jitter_ceiling(base_s: float, cap_s: float, attempt: int) -> float:
    """Return the longest pause before try `attempt` + 1, counted from 1: base * 2^(attempt - 1), at most the cap."""
    return min(cap_s, math.ldexp(base_s, min(attempt - 1, 64)))
