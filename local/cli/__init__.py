"""The `nitro-local` command."""

import asyncio
import contextlib
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from local.demo import run_demo
from local.layout import Layout
from local.ministack import MiniStackError
from local.stack import StackError, run_stack
from local.stack_facts import StackFacts
from local.story import StepFailedError, Story
from workers.cli.examples import examples

_INTERRUPTED: Final = 130
"""What a shell reports for Ctrl-C."""

_LOOK_AGAIN_S: Final = 0.1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    help="The whole of nitro-signer on one machine, with stand-ins for the hardware and for AWS.",
)

StateOption = Annotated[
    Path | None,
    typer.Option(
        help="Keep keys, queues and tables in this folder; a later start goes on with them, on the same port."
    ),
]


@app.command(epilog=examples("nitro-local up --state ./stack --ready-file ./stack.json"))
def up(
    state: StateOption = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Also write the line to this file, when everything is ready.")
    ] = None,
) -> None:
    """Start everything, print one JSON line with the addresses when all is ready, and stop at Ctrl-C or SIGTERM.

    Exit code 0 after a stop, 1 when a part did not start or ended by itself.
    """
    with _state_folder(state) as folder:
        _run(_up(folder, ready_file), code_when_stopped=0)


@app.command(epilog=examples("nitro-local demo"))
def demo(state: StateOption = None) -> None:
    """Start everything, let a key be born and sign, show three attacks fail, and stop.

    Exit code 0 only when every step went as told.
    """
    with _state_folder(state) as folder:
        _run(run_demo(folder, Story(Console())), code_when_stopped=_INTERRUPTED)


@app.command(epilog=examples('eval "$(nitro-local env --state ./stack)"'))
def env(
    state: Annotated[Path, typer.Option(help="The state folder of a running `nitro-local up`.")],
    wait: Annotated[float, typer.Option(help="Seconds to wait for a stack that is still starting.", min=0)] = 0,
) -> None:
    """Print the variables with which any AWS client and nitro-signer talk to a running stack, for a shell.

    Exit code 1 when no stack runs there.
    """
    facts = Layout.prepare(state).facts
    deadline = time.monotonic() + wait
    while not facts.exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
    try:
        found = StackFacts.from_json(facts.read_text())
    except FileNotFoundError:
        sys.stderr.write(f"nitro-local: no stack runs in {state}: start it with `nitro-local up --state {state}`\n")
        raise typer.Exit(1) from None
    for name, value in found.to_environ().items():
        print(f"export {name}={shlex.quote(value)}")


async def _up(folder: Path, ready_file: Path | None) -> None:
    async with run_stack(folder) as stack:
        line = stack.facts.to_json()
        with _told(stack.layout.facts, line):
            if ready_file is not None:
                _write_whole(ready_file, line)
            print(line, flush=True)
            await stack.wait_for_failure()


@contextlib.contextmanager
def _told(file: Path, line: str) -> Generator[None, None, None]:
    """Have the line in a file for as long as it is true."""
    _write_whole(file, line)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _write_whole(file: Path, line: str) -> None:
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(f"{line}\n")
    fresh.replace(file)


@contextlib.contextmanager
def _state_folder(state: Path | None) -> Generator[Path, None, None]:
    """Give the folder to keep state in; without one a temporary folder that goes with the command."""
    if state is not None:
        yield state
        return
    with tempfile.TemporaryDirectory(prefix="nitro-local-") as folder:
        yield Path(folder)


def _run(work: Coroutine[Any, Any, None], *, code_when_stopped: int) -> None:
    """Run until done, SIGTERM or Ctrl-C; either way every child ends in order before this returns."""
    try:
        asyncio.run(_cancelled_by_signals(work))
    except asyncio.CancelledError:
        raise typer.Exit(code_when_stopped) from None
    except (StackError, MiniStackError, StepFailedError) as error:
        sys.stderr.write(f"nitro-local: {error}\n")
        raise typer.Exit(1) from None


async def _cancelled_by_signals(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker: this is a coroutine, so there is one
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await work


def main() -> None:
    """Run the command."""
    app()
