"""Tells a person what happens, a line a step, with the time that it took."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console


class StepFailedError(Exception):
    """A step did not go as told."""


class Story:
    """Prints to a console; colours only on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self._console.print(f"\n[bold]{title}[/bold]")

    def note(self, text: str) -> None:
        """Say something that belongs to the step above."""
        self._console.print(f"        [dim]{text}[/dim]", highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Generator[None, None, None]:
        """Do a step: print it with its time, in green when it went as told and in red when not."""
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self._print("red", "no", text, began)
            raise
        self._print("green", "ok", text, began)

    def _print(self, colour: str, mark: str, text: str, began: float) -> None:
        milliseconds = (time.perf_counter() - began) * 1000
        self._console.print(
            f"  [{colour}]{mark}[/{colour}]  {text} [dim]{milliseconds:,.0f} ms[/dim]", highlight=False, soft_wrap=True
        )
