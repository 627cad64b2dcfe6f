"""What was asked and what came of it. Written by the clients of a run, read by the checker."""

from dataclasses import dataclass, field
from typing import Any

from protocol.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class Sent:
    """A job that a client put on a queue."""

    body: dict[str, str]
    expected_error: ErrorCode | None
    """For a job that must fail; None for one that should be done."""

    @property
    def job_id(self) -> str:
        """The id that it has from its client."""
        return self.body["job_id"]


@dataclass(slots=True)
class History:
    """Everything that was seen of one run."""

    sent: dict[str, Sent] = field(default_factory=dict)
    replies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By job id, in the order in which they came."""

    dead_letters: dict[str, list[str | None]] = field(default_factory=dict)
    """By job id: the reasons of its copies in a dead-letter queue; None for a copy without one."""

    unreadable: list[str] = field(default_factory=list)
    """Bodies of replies that are not in the published schema."""

    records: dict[str, dict[str, str]] = field(default_factory=dict)
    """Key records as they were first seen, by user id."""

    births: dict[str, dict[str, str]] = field(default_factory=dict)
    """Birth certificates likewise, by public key."""

    changed: set[str] = field(default_factory=set)
    """Keys of items that were seen with another content later, or not at all any more."""

    def keep_snapshot(self, kept: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> None:
        """Compare a table with what was seen of it before, and keep what is new."""
        self.changed |= {key for key, item in kept.items() if now.get(key) != item}
        for key, item in now.items():
            kept.setdefault(key, item)

    def is_settled(self, job_id: str) -> bool:
        """Whether a job was answered, or lies in a dead-letter queue."""
        return job_id in self.replies or job_id in self.dead_letters

    @property
    def open_jobs(self) -> list[str]:
        """Jobs of which nothing was seen yet."""
        return [job_id for job_id in self.sent if not self.is_settled(job_id)]
