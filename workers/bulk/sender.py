"""Sends the jobs of a file in windows, and tells after each how far it has come.

A run may end between two windows at any time: nothing is under way then, and a later one goes on exactly there. Killed
inside a window, it sends that window (at most `WINDOW_RECORDS` jobs) again, under the same job ids.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, Protocol

from config.engine import SQS_BATCH_ENTRIES, SQS_MAX_BYTES
from config.worker import WorkerRole
from protocol.jobs import Job
from workers.bulk.job_file import Position, Record
from workers.bulk.progress_file import Progress
from workers.lifecycle import Event
from workers.queue.job_letter import job_letter
from workers.queue.letters import Letter
from workers.queue.sqs import entry_collector

CALLS_AT_ONCE: Final = 8
WINDOW_RECORDS: Final = CALLS_AT_ONCE * SQS_BATCH_ENTRIES

_TRIES: Final = 4
_PAUSE_S: Final = 0.1
_FLUSH_S: Final = 0.0
_REFUSED: Final = "the queue refuses the message"


class SendsLetters(Protocol):
    """See `workers.queue.sqs.SqsCalls`."""

    async def send(self, queue_url: str, letters: Sequence[Letter]) -> list[Event]:
        """Send up to ten messages; return an event for each."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """What became of some records that follow each other."""

    sent: frozenset[int]
    """Lines whose jobs a queue has accepted."""
    rejected: Mapping[int, str]
    """Lines that are no job, or that no queue takes, and why."""
    unsent: frozenset[int]
    """Lines whose jobs no queue has accepted so far."""


def windows(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the records, as many at a time as are sent at once."""
    iterator = iter(records)
    while window := list(islice(iterator, WINDOW_RECORDS)):
        yield window


class BulkSender:
    """Sends windows; jobs go to the queue of their type. A type without a queue is a reason to reject its jobs."""

    def __init__(self, calls: SendsLetters, queue_urls: Mapping[WorkerRole, str], *, max_batch_bytes: int) -> None:
        self._calls = calls
        self._queue_urls = queue_urls
        self._max_batch_bytes = min(max_batch_bytes, SQS_MAX_BYTES)

    async def send(self, records: Sequence[Record], *, already_sent: frozenset[int]) -> Window:
        """Send the jobs of a window but for those that were sent before; return when nothing is under way any more."""
        rejected = {record.line: record.problem for record in records if record.problem is not None}
        by_role: dict[WorkerRole, list[tuple[int, Job]]] = {}
        for record in records:
            if record.job is None or record.line in already_sent:
                continue
            if record.job.worker in self._queue_urls:
                by_role.setdefault(record.job.worker, []).append((record.line, record.job))
            else:
                rejected[record.line] = f"there is no queue for jobs of the type {record.job.type}"
        events: dict[int, Event] = {}
        async with asyncio.TaskGroup() as group:
            for role, jobs in by_role.items():
                group.create_task(self._send_to(self._queue_urls[role], jobs, events))
        rejected |= {line: _REFUSED for line, event in events.items() if event is Event.UNDONE}
        return Window(
            sent=frozenset(line for line, event in events.items() if event is Event.DONE),
            rejected=rejected,
            unsent=frozenset(line for line, event in events.items() if event is Event.BROKE),
        )

    async def _send_to(self, queue_url: str, jobs: Sequence[tuple[int, Job]], events: dict[int, Event]) -> None:
        left = [(line, job_letter(job, queue_url)) for line, job in jobs]
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_S * 2**attempt)
            async with asyncio.TaskGroup() as group:
                collector = entry_collector(
                    partial(self._calls.send, queue_url),
                    group,
                    wait_s=_FLUSH_S,
                    max_bytes=self._max_batch_bytes,
                    weigh=_size,
                )
                answers = await collector.submit([letter for _, letter in left])
            events.update({line: event for (line, _), event in zip(left, answers, strict=True)})
            left = [pair for pair in left if events[pair[0]] is Event.BROKE]
            if not left:
                return


def progressed(progress: Progress, window: Window, position: Position) -> Progress:
    """Return how far a run has come after a window that ends at a position, or inside it if jobs are left unsent."""
    if window.unsent:
        return progress.model_copy(update={"sent_ahead": progress.sent_ahead | window.sent})
    return progress.model_copy(
        update={
            "lines": position.lines,
            "size_bytes": position.size_bytes,
            "sha256": position.sha256,
            "sent_ahead": frozenset[int](),
            "sent": progress.sent + len(progress.sent_ahead) + len(window.sent),
            "rejected": progress.rejected + len(window.rejected),
        }
    )


def _size(letter: Letter) -> int:
    return letter.size_bytes
