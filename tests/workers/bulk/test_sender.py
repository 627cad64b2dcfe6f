"""Windows of a file: each line is sent, rejected or left, and what is noted of it is true."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from protocol.jobs import parse_job
from workers.bulk.job_file import Position, Record
from workers.bulk.progress_file import Progress, ProgressError
from workers.bulk.sender import WINDOW_RECORDS, BulkSender, Window, progressed, windows
from workers.cli.interruption import Interruption
from workers.lifecycle import Event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workers.queue.letters import Letter

END = Position(80, 4000, "ab")


def record(line: int, kind: str = "sign") -> Record:
    """Return a record with a job."""
    fields = f'{{"type": "{kind}", "userid": "u{line}"' + (', "message": "m"}' if kind == "sign" else "}")
    return Record(line, parse_job(fields, f"run-{line}"))


class Queue:
    """Takes letters by a plan: job id to events of the tries to come; `DONE` without one."""

    def __init__(self, plan: dict[str, list[Event]]) -> None:
        self.plan = plan
        self.calls: list[tuple[str, int]] = []

    async def send(self, queue_url: str, letters: Sequence[Letter]) -> list[Event]:
        """Follow the plan."""
        self.calls.append((queue_url, len(letters)))
        return [self._event(letter) for letter in letters]

    def _event(self, letter: Letter) -> Event:
        for job_id, events in self.plan.items():
            if f'"{job_id}"' in letter.body and events:
                return events.pop(0)
        return Event.DONE


async def send(records: list[Record], plan: dict[str, list[Event]] | None = None, **more: frozenset[int]) -> Window:
    """Send one window to a sign queue."""
    sender = BulkSender(Queue(plan or {}), {"sign": "sign"}, max_batch_bytes=10_000)
    return await sender.send(records, already_sent=more.get("already_sent", frozenset()))


async def test_each_line_has_one_fate() -> None:
    """Sent, rejected by the file, by the queue, or for want of a queue, or left."""
    window = await send(
        [record(1), Record(2, None, "bad"), record(3), record(4, "generate"), record(5), record(6)],
        {"run-3": [Event.UNDONE], "run-5": [Event.BROKE] * 9, "run-6": [Event.BROKE, Event.DONE]},
    )
    assert window.sent == {1, 6}
    assert window.rejected == {
        2: "bad",
        3: "the queue refuses the message",
        4: "there is no queue for jobs of the type generate",
    }
    assert window.unsent == {5}


async def test_what_was_sent_is_not_sent_again() -> None:
    """Of a window in which an earlier run has ended."""
    window = await send([record(1), record(2)], already_sent=frozenset({1}))
    assert window.sent == {2}


async def test_a_window_is_sent_in_tens() -> None:
    """And each kind of job to its own queue."""
    queue = Queue({})
    sender = BulkSender(queue, {"sign": "s", "generate": "g"}, max_batch_bytes=10_000)
    records = [record(line, "generate" if line % 4 == 0 else "sign") for line in range(40)]
    await sender.send(records, already_sent=frozenset())
    assert sorted(queue.calls) == [("g", 10), ("s", 10), ("s", 10), ("s", 10)]


def test_windows() -> None:
    """Records, as many at a time as are sent at once."""
    sizes = [len(window) for window in windows(record(line) for line in range(2 * WINDOW_RECORDS + 3))]
    assert sizes == [WINDOW_RECORDS, WINDOW_RECORDS, 3]


def test_progress_counts_each_line_once() -> None:
    """Over a window that ended in the middle, and the rest of it."""
    progress = Progress(run_id="run")
    half = progressed(progress, Window(frozenset({1, 3}), {2: "bad"}, frozenset({4})), END)
    assert (half.lines, half.sent, half.rejected, half.sent_ahead) == (0, 0, 0, frozenset({1, 3}))
    whole = progressed(half, Window(frozenset({4}), {2: "bad"}, frozenset()), END)
    assert (whole.position, whole.sent, whole.rejected, whole.sent_ahead) == (END, 3, 1, frozenset())


def test_progress_survives(tmp_path: Path) -> None:
    """Written and read, it is the same; anything else is refused."""
    path = tmp_path / "state"
    progress = Progress(run_id="run", lines=80, size_bytes=1, sha256="ab", sent_ahead=frozenset({81, 83}), sent=79)
    progress.write(path)
    assert Progress.read(path) == progress
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    path.write_text('{"run_id": 7}')
    with pytest.raises(ProgressError, match="run_id"):
        Progress.read(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_between_two_steps(number: int) -> None:
    """A step that has begun is done to its end; without one, at once; and the handlers are put back."""
    before = signal.getsignal(number)
    done: list[str] = []

    def work(*, in_step: bool) -> None:
        interruption = Interruption()
        with interruption.handled():
            if in_step:
                with interruption.step():
                    os.kill(os.getpid(), number)
                    done.append("step")
            else:
                with interruption.step():
                    done.append("before")
                os.kill(os.getpid(), number)
            done.append("never")

    for in_step in (True, False):
        with pytest.raises(KeyboardInterrupt):
            work(in_step=in_step)
    assert done == ["step", "before"]
    assert signal.getsignal(number) == before
