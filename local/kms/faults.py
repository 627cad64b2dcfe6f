"""What shall go wrong: seeded, so that a run can be repeated."""

import random  # noqa: TID251 - seeded faults can be repeated; no secret comes from here
from dataclasses import dataclass
from enum import Enum, unique


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsFaults:
    """Faults of the service. Each rate is the share of requests that are hit, from 0 to 1."""

    delay_s: float = 0.0
    """How long every request waits before anything else."""

    throttle_rate: float = 0.0
    """Answered with ThrottlingException."""

    refuse_rate: float = 0.0
    """Answered with `refuse_code`."""

    refuse_code: str = "KMSInternalException"
    drop_rate: float = 0.0
    """Done, but not answered: the connection is reset."""

    seed: int = 0


@unique
class Fault(Enum):
    """What happens to one request."""

    NONE = "none"
    THROTTLE = "throttle"
    REFUSE = "refuse"
    DROP = "drop"


class FaultSequence:
    """The fates of requests, one after the other."""

    def __init__(self, faults: KmsFaults) -> None:
        self._faults = faults
        self._random = random.Random(faults.seed)  # noqa: S311 - repeatable, not secret

    def next(self) -> Fault:
        """Return the fate of the next request."""
        number = self._random.random()
        for fault, rate in (
            (Fault.DROP, self._faults.drop_rate),
            (Fault.THROTTLE, self._faults.throttle_rate),
            (Fault.REFUSE, self._faults.refuse_rate),
        ):
            if number < rate:
                return fault
            number -= rate
        return Fault.NONE
