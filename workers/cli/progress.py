"""A progress bar with rate and time left: on standard error, and only when that is a terminal."""

import contextlib
import sys
from collections.abc import Generator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar(Protocol):
    """Moves the bar to where the work is."""

    def __call__(self, done: int, *, items: int) -> None:
        """Show how much of the total is done, and how many items that are."""
        ...


@contextlib.contextmanager
def progress_bar(text: str, unit: str, total: int | None) -> Generator[Bar, None, None]:
    """Show a bar; without a total it only tells items and rate."""
    console = Console(stderr=True)
    columns = (
        TextColumn(text),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[items]:,} {task.fields[unit]}  {task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Standard output may be a file: the bar must not draw what is printed there into itself.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        task = bar.add_task(text, total=total, items=0, unit=unit, rate=0.0)
        first: int | None = None

        def move(done: int, *, items: int) -> None:
            nonlocal first
            first = items if first is None else first  # what an earlier run did says nothing about this one's rate
            elapsed_s = bar.tasks[0].elapsed or 0.0
            rate = (items - first) / elapsed_s if elapsed_s > 0 else 0.0
            bar.update(task, completed=done, items=items, rate=rate)

        yield move
