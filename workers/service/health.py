"""What a worker process knows of its own health, and how the health of a service is made of that. Pure.

`/healthz` asks whether restarting would help: a process that is silent, or polls no more though nothing keeps it from
polling. `/readyz` asks whether jobs are taken now: an enclave is up, credentials are valid, nothing drains or pauses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from protocol.model import StrictModel

REPORT_INTERVAL_S: Final = 2.0
REPORT_SOON_S: Final = 0.25
"""While no jobs are taken: that they are taken again is told at once."""

SILENT_AFTER_S: Final = 15.0
"""A process that has reported nothing for so long is not healthy."""


class ProcessHealth(StrictModel):
    """The report of one process."""

    enclave_up: bool
    """At least one enclave takes items."""

    paused: bool
    """An operator has paused signing, or the switch cannot be read."""

    draining: bool
    in_flight: int
    """Messages that are not settled."""

    last_poll_age_s: float
    """Since a poll last succeeded."""

    credentials_left_s: float | None
    """Until they expire: 0 when there are none, None when they do not expire."""


@unique
class Problem(StrEnum):
    """Why something is not healthy, or not ready."""

    SILENT = "silent"
    NOT_POLLING = "not_polling"
    NO_ENCLAVE = "no_enclave"
    NO_CREDENTIALS = "no_credentials"
    PAUSED = "paused"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Report:
    """What a process said, and when by the clock of the reader."""

    health: ProcessHealth
    at: float


class HealthBoard:
    """The last report of each process.

    Args:
        processes: how many there should be.
        max_poll_age_s: the longest that polls of a process that may poll can be apart.
    """

    def __init__(self, processes: int, max_poll_age_s: float) -> None:
        self._max_poll_age_s = max_poll_age_s
        self._reports: dict[int, Report | None] = dict.fromkeys(range(processes))

    def note(self, process: int, health: ProcessHealth, now: float) -> None:
        """Take a report."""
        self._reports[process] = Report(health, now)

    def forget(self, process: int) -> None:
        """The process has ended: what it said counts no more."""
        self._reports[process] = None

    def ill(self, now: float) -> dict[int, list[Problem]]:
        """Return what a restart may cure, by process; empty when all are healthy."""
        return _only_with_problems({process: self._illness(report, now) for process, report in self._reports.items()})

    def not_ready(self, now: float) -> dict[int, list[Problem]]:
        """Return why processes take no jobs; empty when all do."""
        return _only_with_problems(
            {
                process: self._illness(report, now) + (_reasons(report.health) if report else [])
                for process, report in self._reports.items()
            }
        )

    def describe(self, now: float) -> list[dict[str, object]]:
        """Return the reports as JSON shows them, and how old they are."""
        described: list[dict[str, object]] = []
        for process, report in self._reports.items():
            fields: dict[str, object] = {"process": process}
            if report is not None:
                fields |= report.health.model_dump() | {"report_age_s": round(now - report.at, 1)}
            described.append(fields)
        return described

    def _illness(self, report: Report | None, now: float) -> list[Problem]:
        if report is None or now - report.at > SILENT_AFTER_S:
            return [Problem.SILENT]
        health = report.health
        may_poll = health.enclave_up and not health.paused and not health.draining
        return [Problem.NOT_POLLING] if may_poll and health.last_poll_age_s > self._max_poll_age_s else []


def _reasons(health: ProcessHealth) -> list[Problem]:
    has_credentials = health.credentials_left_s is None or health.credentials_left_s > 0
    checks = (
        (not health.enclave_up, Problem.NO_ENCLAVE),
        (not has_credentials, Problem.NO_CREDENTIALS),
        (health.paused, Problem.PAUSED),
        (health.draining, Problem.DRAINING),
    )
    return [problem for is_so, problem in checks if is_so]


def _only_with_problems(found: Mapping[int, list[Problem]]) -> dict[int, list[Problem]]:
    return {process: problems for process, problems in found.items() if problems}
