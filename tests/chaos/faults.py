"""Which request meets which fault: from a seed, so that a run can be repeated.

The fate of the n-th request of an operation depends on the seed, the operation and n alone. What else happens between
requests is the machine's own; a seed replays the plan, not the interleaving.
"""

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final


@unique
class Fault(StrEnum):
    """What happens to one request."""

    DELAY = "delay"  # it arrives late
    CUT = "cut connection"  # it never arrives
    LOST_ANSWER = "lost answer"  # done, and nobody hears of it
    THROTTLED = "throttled"  # refused with the service's own code
    SERVER_ERROR = "server error"
    FAILED_ENTRY = "failed entry"  # one entry of a batch is not done, and said so
    DONE_BUT_FAILED = "entry done, reported as failed"
    EXPIRED_HANDLE = "expired receipt handle"  # one entry is refused, and its sender blamed
    DUPLICATE = "duplicate delivery"  # visible again at once, while somebody works on it
    STALE_DUPLICATE = "delivery after delete"  # an old message again, with its old receipt handle
    UNPROCESSED_KEYS = "unprocessed keys"


_ANY: Final = {Fault.DELAY: 0.03, Fault.CUT: 0.01, Fault.LOST_ANSWER: 0.015, Fault.THROTTLED: 0.02,
               Fault.SERVER_ERROR: 0.01}  # fmt: skip
_BATCH: Final = _ANY | {Fault.FAILED_ENTRY: 0.03, Fault.DONE_BUT_FAILED: 0.02}
_BY_HANDLE: Final = _BATCH | {Fault.EXPIRED_HANDLE: 0.02}

RATES: Final = {
    "ReceiveMessage": _ANY | {Fault.DUPLICATE: 0.05, Fault.STALE_DUPLICATE: 0.03},
    "SendMessageBatch": _BATCH,
    "DeleteMessageBatch": _BY_HANDLE,
    "ChangeMessageVisibilityBatch": _BY_HANDLE,
    "BatchGetItem": _ANY | {Fault.UNPROCESSED_KEYS: 0.05},
    "GetItem": _ANY,
    "PutItem": _ANY | {Fault.LOST_ANSWER: 0.04},
}
"""Share of the requests of an operation that meet a fault. Operations that are not here meet none."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one request; `number` in [0, 1) says how long or to which entry."""

    fault: Fault | None
    number: float

    def pick(self, count: int) -> int:
        """Return which of `count` entries is hit."""
        return int(self.number * count)


class Fates:
    """The fates of requests, one after the other. Counts the faults that it hands out."""

    def __init__(self, seed: int) -> None:
        self.counts: Counter[Fault] = Counter()
        self.requests = 0
        self.is_calm = True
        """While it is, nothing is hit."""
        self._seed = seed
        self._met: Counter[str] = Counter()

    def next(self, operation: str) -> Fate:
        """Return the fate of the next request of an operation."""
        self.requests += 1
        if self.is_calm:
            return Fate(None, 0.0)
        self._met[operation] += 1
        dice = random.Random(f"{self._seed}/{operation}/{self._met[operation]}")
        number, detail = dice.random(), dice.random()
        for fault, rate in RATES.get(operation, {}).items():
            if number < rate:
                return Fate(fault, detail)
            number -= rate
        return Fate(None, detail)
