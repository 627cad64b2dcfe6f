"""`nitro-signer key`: exports proofs of where keys were born, and verifies them offline."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from config.worker import WorkerSettings
from protocol.errors import ErrorCode, SignerError
from protocol.keyproof import KeyProof, KeyProofError
from workers.cli.output import EXIT_REFUSED, fail, read_pcr, read_root
from workers.cli.settings import ConfigOption, load_or_fail
from workers.cli.verdicts import Tally
from workers.keys.proof_check import Demands, judge_all, read_lines
from workers.keys.proof_export import UnreadableRow, export_all, export_one, take_up

app = typer.Typer(no_args_is_help=True, help="Proofs of where keys were born.")

_INTERRUPTED: Final = 130
_STANDARD_STREAM: Final = "-"
_TRIES_BY_OURSELVES: Final = 1


@app.callback()
def key() -> None:
    """Proofs of where keys were born."""


@app.command(epilog="Example: nitro-signer key prove u001 --out u001.json")
def prove(
    userid: Annotated[str | None, typer.Argument(metavar="[USERID]", help="Whose key; none with --all.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every key of the table; needs --out.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file that does not exist, one key a line. Default: standard output."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="With --all: go on with FILE if it exists.")] = False,
    config: ConfigOption,
) -> None:
    """Export the birth certificate of a key, or of all keys, to be verified by anybody with `key verify`.

    Needs GetItem and BatchGetItem on both tables, and Scan for --all. Exit 0 when all was written; 1 when a key is
    unknown, has no certificate, or its stored record is not the certified one; 2 for a misuse or an unreachable table.
    """
    if (userid is None) != everything or (everything and out is None) or (resume and not everything):
        fail("key prove", "give a USERID, or --all with --out FILE; --resume goes with --all")
    settings = load_or_fail("key prove", config)
    try:
        with _output(out, resume=resume) as (file, after):
            complaints = asyncio.run(_export(settings, userid, after, file))
    except KeyboardInterrupt:
        typer.echo("stopped" + ("; continue with --resume" if everything else ""), err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except OSError as error:
        fail("key prove", f"{out or 'standard output'}: {error.strerror}")
    except KeyProofError as error:
        fail("key prove", str(error))
    except SignerError as error:
        if error.code is not ErrorCode.UNKNOWN_USER:
            fail("key prove", error.detail)
        typer.echo(f"{userid}: {error.detail}", err=True)
        raise typer.Exit(EXIT_REFUSED) from error
    if complaints:
        raise typer.Exit(EXIT_REFUSED)


@app.command(epilog="Example: nitro-signer key verify keys.jsonl --pcr0 3f1c…9a --pcr0 77d0…41")
def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Key proofs, one a line; - is standard input.")],
    *,
    pcr0: Annotated[
        list[str], typer.Option("--pcr0", metavar="HEX", help="A generator image whose word is taken; may be repeated.")
    ],
    root: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Root certificate to trust. Default: that of AWS.")
    ] = None,
    start_line: Annotated[int, typer.Option(metavar="N", min=1, help="Begin at this line, after an interruption.")] = 1,
    processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="For large files. Default: one per processor.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object per key, and one for the sum.")] = False,
) -> None:
    """Verify proofs of birth offline, each at its document's own time.

    Exit 0 when every key is proven; 1 when any is refused (each is named, with the check that failed); 2 for a misuse.
    """
    demands = Demands(read_root(root), frozenset(read_pcr("--pcr0", text) for text in pcr0))
    tally = Tally(as_json=as_json)
    last_line = start_line - 1
    try:
        with _input(file) as (source, size_bytes), _progress("verifying", size_bytes) as advance:
            lines = read_lines(source, start_line=start_line)
            for verdict in judge_all(lines, demands, processes=processes or len(os.sched_getaffinity(0))):
                tally.add(verdict)
                last_line = verdict.line
                advance(verdict.size_bytes)
    except KeyboardInterrupt:
        typer.echo(f"stopped; continue with --start-line {last_line + 1}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except OSError as error:
        fail("key verify", f"{file}: {error.strerror}")
    if not tally.keys:
        fail("key verify", f"{file}: no key proof" + (f" from line {start_line} on" if start_line > 1 else ""))
    tally.print_sum()
    if tally.refused:
        raise typer.Exit(EXIT_REFUSED)


async def _export(settings: WorkerSettings, userid: str | None, after: str | None, file: BinaryIO) -> int:
    """Write what is asked for; return how many keys need somebody's attention."""
    from aiobotocore.session import AioSession

    from workers.aws import dynamodb_client
    from workers.keys.dynamodb import DynamoDbCalls

    store = settings.store
    session = AioSession()
    session.set_config_variable("region", settings.region)
    complaints = 0
    async with dynamodb_client(
        session, connections=1, read_timeout_s=store.call_timeout_s, tries=_TRIES_BY_OURSELVES
    ) as client:
        calls = DynamoDbCalls(client, call_timeout_s=store.call_timeout_s, tries=store.call_tries)
        if userid is not None:
            return _write(await export_one(calls, store, userid), file)
        with _progress("exporting", None) as advance:
            async for proof in export_all(calls, store, after=after):
                complaints += _write(proof, file)
                advance(1)
    return complaints


def _write(proof: KeyProof | UnreadableRow, file: BinaryIO) -> int:
    """Write a proof; say what is wrong with it, and return 1 then, else 0."""
    if isinstance(proof, UnreadableRow):
        typer.echo(f"{proof.userid}: not exported: {proof.reason}", err=True)
        return 1
    file.write(proof.to_line())
    match proof.stored_record_is_certified:
        case None:
            typer.echo(f"{proof.userid}: no birth certificate is stored", err=True)
        case False:
            typer.echo(f"{proof.userid}: the stored record is not the one that was certified", err=True)
        case True:
            return 0
    return 1


@contextlib.contextmanager
def _output(path: Path | None, *, resume: bool) -> Generator[tuple[BinaryIO, str | None], None, None]:
    """Open the file, and tell the user id after which to go on. A file that exists is never overwritten.

    When nothing could be written, no file is left to stand in the way of the next try.
    """
    if path is None:
        yield sys.stdout.buffer, None
        sys.stdout.buffer.flush()
        return
    with path.open("r+b" if resume and path.exists() else "x+b") as file:
        try:
            yield file, take_up(file) if resume else None
        except BaseException:
            if not path.stat().st_size:
                path.unlink()
            raise


@contextlib.contextmanager
def _input(name: str) -> Generator[tuple[BinaryIO, int | None], None, None]:
    """Open the file, and tell its size in bytes where it has one."""
    if name == _STANDARD_STREAM:
        yield sys.stdin.buffer, None
        return
    path = Path(name)
    with path.open("rb") as file:
        yield file, path.stat().st_size or None


@contextlib.contextmanager
def _progress(text: str, total: int | None) -> Generator[Callable[[int], None], None, None]:
    """Show a bar on standard error when that is a terminal; give the function that moves it."""
    console = Console(stderr=True)
    columns = (
        TextColumn(text),
        BarColumn(),
        TextColumn("{task.fields[keys]} keys"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Standard output may be a file: the bar must not draw what is printed there into itself.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        task = bar.add_task(text, total=total, keys=0)
        keys = 0

        def advance(step: int) -> None:
            nonlocal keys
            keys += 1
            bar.update(task, advance=step, keys=keys)

        yield advance
