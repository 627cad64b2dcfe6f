"""`nitro-signer enqueue file`: puts the jobs of a file on their queues."""

import asyncio
import contextlib
import fcntl
import json
import math
import secrets
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TextIO, TypeVar

import typer

from config.worker import WorkerSettings
from workers.bulk.job_file import JobFile, JobFileError, JobFileFormat
from workers.bulk.progress_file import Progress, ProgressError
from workers.bulk.sender import CALLS_AT_ONCE, BulkSender, progressed, windows
from workers.cli.examples import examples
from workers.cli.interruption import EXIT_INTERRUPTED, Interruption
from workers.cli.output import EXIT_REFUSED, fail, fail_for_file, print_json
from workers.cli.progress import Bar, progress_bar
from workers.cli.queues import engines_of, open_queues
from workers.cli.settings import ConfigOption, load_or_fail

_Part = TypeVar("_Part")

COMMAND: Final = "enqueue file"
EPILOG: Final = examples(
    "nitro-signer enqueue file payments.csv --config worker.toml",
    "nitro-signer enqueue file payments.csv --resume",
    "jq -c '.[]' jobs.json | nitro-signer enqueue file - --json",
)

_STANDARD_INPUT: Final = "-"
_RUN_ID_BYTES: Final = 6


def enqueue_file(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="CSV whose header names fields of a job (userid, message, …), or JSON lines, one job a line; "
            "- is standard input.",
        ),
    ],
    config: ConfigOption,
    *,
    file_format: Annotated[
        JobFileFormat | None,
        typer.Option("--format", help="Default: csv for a file whose name ends in .csv, else jsonl."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keeps how far it has come; removed at the end. Default: FILE.enqueue."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run of the same FILE has ended.")
    ] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write rejected lines there, as JSON lines. Default: on standard error."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the sum as a JSON object.")] = False,
) -> None:
    """Put the jobs of a file on their queues: one or a million, in batches, without a double after an interruption.

    Jobs without a job_id get one of the run and their line. Lines that are no jobs are reported by number, and the
    others are sent. Exit 0 when all were sent; 1 when lines were rejected; 2 when the queues cannot be reached, or for
    a misuse; 130 when interrupted. After 2 and 130, --resume goes on.
    """
    settings = load_or_fail(COMMAND, config)
    chosen = file_format or (JobFileFormat.CSV if file.endswith(".csv") else JobFileFormat.JSONL)
    state_path = state or (None if file == _STANDARD_INPUT else Path(f"{file}.enqueue"))
    interruption = Interruption()
    try:
        with interruption.handled(), _input(file) as (source, size_bytes):
            run = _Run(_begin(file, state_path, resume=resume), state_path, interruption)
            with (
                _report(rejects, run.progress) as report,
                progress_bar("enqueueing", "jobs", size_bytes) as bar,
            ):
                run.send_all(JobFile(source, chosen, run_id=run.progress.run_id), settings, report, bar)
    except KeyboardInterrupt:
        typer.echo(f"{COMMAND}: stopped{_how_to_go_on(state_path)}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except OSError as error:
        fail_for_file(COMMAND, error.filename or file, error)
    except (JobFileError, ProgressError) as error:
        fail(COMMAND, f"{file}: {error}")
    if run.unsent:
        fail(COMMAND, f"the queues do not take {run.unsent} jobs ({run.trouble}){_how_to_go_on(state_path)}")
    if state_path is not None:
        state_path.unlink(missing_ok=True)
    _print_sum(run.progress, as_json=as_json)
    if run.progress.rejected:
        raise typer.Exit(EXIT_REFUSED)


class _Run:
    """One run: reads some lines, sends their jobs, notes how far it has come, and so on to the end of the file.

    Attributes:
        progress: how far it has come.
        unsent: jobs that no queue has taken, which ended the run.
        trouble: why not, in the code of SQS or of the way to it.
    """

    def __init__(self, progress: Progress, state_path: Path | None, interruption: Interruption) -> None:
        self.progress = progress
        self.unsent = 0
        self.trouble: str | None = None
        self._state_path = state_path
        self._interruption = interruption

    def send_all(self, jobs: JobFile, settings: WorkerSettings, report: TextIO | None, bar: Bar) -> None:
        """Send until the end of the file, or until a queue takes no more."""
        from workers.queue.sqs import SqsCalls

        engines = engines_of(settings)
        with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
            sqs = stack.enter_context(
                _in_loop(runner, open_queues(COMMAND, settings.region, connections=CALLS_AT_ONCE))
            )
            calls = SqsCalls(sqs, min(engine.call_timeout_s for engine in engines.values()))
            sender = BulkSender(
                calls,
                {role: engine.queue_url for role, engine in engines.items()},
                max_batch_bytes=min(engine.max_batch_bytes for engine in engines.values()),
            )
            for number, records in enumerate(windows(jobs.records(after=self.progress.position))):
                with self._interruption.step():
                    if number == 0:
                        self._note()  # before anything is sent: killed at any point, the jobs keep their ids
                    window = runner.run(sender.send(records, already_sent=self.progress.sent_ahead))
                    self.progress = progressed(self.progress, window, jobs.position)
                    self.unsent = len(window.unsent)
                    if not self.unsent:
                        _tell(window.rejected, report)  # before the state: what is told twice is better than never
                    self._note()
                    bar(self.progress.size_bytes, items=self.progress.sent)
                if self.unsent:
                    self.trouble = calls.trouble
                    return

    def _note(self) -> None:
        if self._state_path is not None:
            self.progress.write(self._state_path)


@contextlib.contextmanager
def _in_loop(runner: asyncio.Runner, parts: AbstractAsyncContextManager[_Part]) -> Generator[_Part, None, None]:
    """Use an asynchronous context manager from outside the loop."""
    part = runner.run(_coroutine(parts.__aenter__))
    try:
        yield part
    finally:
        runner.run(_coroutine(lambda: parts.__aexit__(None, None, None)))


async def _coroutine(call: Callable[[], Awaitable[_Part]]) -> _Part:
    return await call()


def _begin(file: str, state_path: Path | None, *, resume: bool) -> Progress:
    """Return how far an earlier run came, or a beginning."""
    if resume:
        if state_path is None:
            fail(COMMAND, "--resume needs a FILE, or --state")
        if not state_path.exists():  # it may have come to its end: to begin anew would send every job twice
            fail(COMMAND, f"no interrupted run of {file}: {state_path} does not exist; without --resume it begins anew")
        return Progress.read(state_path)
    if state_path is not None and state_path.exists():
        fail(COMMAND, f"{state_path} tells of an interrupted run: --resume goes on with it; delete it to begin anew")
    return Progress(run_id=secrets.token_hex(_RUN_ID_BYTES))


@contextlib.contextmanager
def _input(name: str) -> Generator[tuple[BinaryIO, int | None], None, None]:
    """Open the file for one run at a time, and tell its size in bytes where it has one."""
    if name == _STANDARD_INPUT:
        yield sys.stdin.buffer, None
        return
    path = Path(name)
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(COMMAND, f"{name}: another run is sending it")
        except OSError:  # some network file systems lock only what is open for writing
            pass
        yield file, path.stat().st_size or None


@contextlib.contextmanager
def _report(path: Path | None, progress: Progress) -> Generator[TextIO | None, None, None]:
    """Open the file of rejected lines; None where they go to standard error.

    Of what an earlier run has written, lines remain up to where it surely came: the others are told again.
    """
    if path is None:
        yield None
        return
    if progress.lines and path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text("".join(text for text in lines if _line_of(text) <= progress.lines), encoding="utf-8")
        fresh.replace(path)
    with path.open("a" if progress.lines else "w", encoding="utf-8") as file:
        yield file


def _line_of(text: str) -> float:
    """Return the line that a report's line is about; infinity for a line that was torn by a crash."""
    try:
        return int(json.loads(text)["line"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _tell(rejected: Mapping[int, str], report: TextIO | None) -> None:
    for line, reason in sorted(rejected.items()):
        if report is None:
            typer.echo(f"line {line}: {reason}", err=True)
        else:
            report.write(json.dumps({"line": line, "reason": reason}) + "\n")
    if report is not None:
        report.flush()


def _how_to_go_on(state_path: Path | None) -> str:
    if state_path is None:
        return ""
    return f"; {state_path} knows how far it came: --resume goes on" if state_path.exists() else "; nothing was sent"


def _print_sum(progress: Progress, *, as_json: bool) -> None:
    if as_json:
        print_json({"sent": progress.sent, "rejected": progress.rejected, "lines": progress.lines})
    else:
        print(f"{progress.sent} jobs sent, {progress.rejected} of {progress.lines} lines rejected")
