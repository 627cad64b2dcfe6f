"""The figures of a run, for programs and for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tests.chaos.checker import Verdict
from tests.chaos.faults import Fault
from tests.chaos.plan import Blow

_SHOWN = 10
"""How many broken promises of a kind are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened, and what became of it."""

    seed: int
    fault_s: float
    settle_s: float
    """From the last fault until every job had settled."""

    total_s: float
    requests: int
    """To SQS and DynamoDB through the fault proxy."""

    faults: Mapping[Fault, int]
    kms_requests: int
    strikes: Mapping[tuple[Blow, str], int]
    failures: Sequence[str]
    """Of programs: ended by itself, did not start again."""

    records: int
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return self.verdict.holds and not self.failures

    def to_json(self) -> str:
        """Return one line."""
        strikes = {f"{blow}: {target}": count for (blow, target), count in sorted(self.strikes.items())}
        fields = asdict(self) | {"strikes": strikes, "faults": dict(sorted(self.faults.items())), "holds": self.holds}
        return json.dumps(fields)

    def to_markdown(self) -> str:
        """Return a table."""
        verdict = self.verdict
        kills = sum(count for (blow, _), count in self.strikes.items() if blow is not Blow.RESTART_EMULATOR)
        restarts = sum(count for (blow, _), count in self.strikes.items() if blow is Blow.RESTART_EMULATOR)
        rows: list[tuple[str, object]] = [
            ("seed", self.seed),
            ("time with faults", f"{self.fault_s:.0f} s"),
            ("until the last job settled", f"{self.settle_s:.1f} s"),
            ("jobs", verdict.jobs),
            ("answered", verdict.answered),
            ("answered more than once", verdict.answered_again),
            ("dead-lettered, by reason", _listed(verdict.dead_lettered)),
            ("one delivery done, another given up", verdict.succeeded_and_failed),
            ("keys", self.records),
            ("requests to SQS and DynamoDB", self.requests),
            ("faults in them", sum(self.faults.values())),
            *((f"· {fault}", count) for fault, count in sorted(self.faults.items())),
            ("calls of the attesting KMS, 7 % of them faulty", self.kms_requests),
            ("kills", kills),
            *((f"· {target}, {blow}", n) for (blow, target), n in sorted(self.strikes.items(), key=str)
              if blow is not Blow.RESTART_EMULATOR),
            ("restarts of SQS and DynamoDB with their state", restarts),
            ("**lost**", len(verdict.lost)),
            ("**overwritten**", len(verdict.overwritten)),
            ("**wrong**", len(verdict.wrong)),
            ("**errors answered as success**", len(verdict.false_success)),
            ("**failed without a reason**", len(verdict.unreasoned)),
            ("**replies that nobody asked for**", len(verdict.unasked)),
            ("**programs that ended by themselves, or did not start again in time**", len(self.failures)),
        ]  # fmt: skip
        return "\n".join(["| what | count |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])

    def problems(self) -> list[str]:
        """Return a line for each kind of broken promise."""
        verdict = self.verdict
        kinds = {
            "lost": verdict.lost,
            "overwritten": verdict.overwritten,
            "wrong": verdict.wrong,
            "errors answered as success": verdict.false_success,
            "failed without a reason": verdict.unreasoned,
            "nobody asked": verdict.unasked,
            "programs": self.failures,
        }
        return [f"{kind}: {', '.join(found[:_SHOWN])}" for kind, found in kinds.items() if found]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
