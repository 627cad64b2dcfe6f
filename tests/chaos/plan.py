"""What is killed and when: from a seed, before the run starts."""

import random
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final


@unique
class Blow(StrEnum):
    """What happens to the stack."""

    KILL = "kill -9 a program"  # its supervisor starts it again
    KILL_PROCESS = "kill -9 one of its processes"  # the program itself starts that one again
    RESTART_EMULATOR = "restart SQS and DynamoDB"  # with their state


WORKERS: Final = ("generate-worker", "sign-worker")
ENCLAVES: Final = ("generator-enclave", "signer-enclave")
PROXIES: Final = ("generator-proxy", "signer-proxy")

_CHOICES: Final = (
    *((Blow.KILL, name, 2) for name in (*WORKERS, *ENCLAVES)),
    *((Blow.KILL, name, 1) for name in PROXIES),
    *((Blow.KILL_PROCESS, name, 2) for name in (*WORKERS, *ENCLAVES)),
    (Blow.RESTART_EMULATOR, "ministack", 2),
)


@dataclass(frozen=True, slots=True)
class Strike:
    """One event of the plan: so many seconds after the start."""

    at_s: float
    blow: Blow
    target: str


def make_plan(seed: int, duration_s: float, mean_pause_s: float) -> list[Strike]:
    """Return the events of a run, in order. Equal arguments give equal plans."""
    dice = random.Random(f"{seed}/plan")
    plan: list[Strike] = []
    at_s = dice.expovariate(1 / mean_pause_s)
    while at_s < duration_s:
        [(blow, target, _)] = dice.choices(_CHOICES, weights=[weight for _, _, weight in _CHOICES])
        plan.append(Strike(round(at_s, 2), blow, target))
        at_s += dice.expovariate(1 / mean_pause_s)
    return plan
