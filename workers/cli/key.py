"""`nitro-signer key`: exports proofs of where keys were born, and verifies them offline."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from config.worker import WorkerSettings
from protocol.errors import ErrorCode, SignerError
from protocol.keyproof import KeyProof, KeyProofError
from workers.cli.aws_errors import aws_or_fail
from workers.cli.examples import examples
from workers.cli.output import EXIT_REFUSED, fail, fail_for_file, print_json, read_pcr, read_root
from workers.cli.progress import progress_bar
from workers.cli.settings import ConfigOption, load_or_fail
from workers.cli.verdicts import Tally
from workers.keys.proof_check import Demands, judge_all, read_lines
from workers.keys.proof_export import UnreadableRow, export_all, export_one, take_up

app = typer.Typer(no_args_is_help=True, help="Proofs of where keys were born.")

_INTERRUPTED: Final = 130
_STANDARD_STREAM: Final = "-"
_TRIES_BY_OURSELVES: Final = 1


@dataclass(slots=True)
class _Count:
    """Keys that were written, and how many keys need somebody's attention."""

    written: int = 0
    complaints: int = 0


@app.callback()
def key() -> None:
    """Proofs of where keys were born."""


@app.command(epilog=examples("nitro-signer key prove u001 --out u001.json"))
def prove(
    userid: Annotated[str | None, typer.Argument(metavar="USERID", help="Whose key; none with --all.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every key of the table; needs --out.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file that does not exist, one key a line. Default: standard output."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="With --all: go on with FILE if it exists.")] = False,
    config: ConfigOption,
    as_json: Annotated[bool, typer.Option("--json", help="With --out: print the sum as a JSON object.")] = False,
) -> None:
    """Export the birth certificate of a key, or of all keys, to be verified by anybody with `key verify`.

    Needs GetItem and BatchGetItem on both tables, and Scan for --all. Exit 0 when all was written; 1 when a key is
    unknown, has no certificate, or its stored record is not the certified one; 2 for a misuse or an unreachable table.
    """
    if (userid is None) != everything or (everything and out is None) or (resume and not everything):
        fail("key prove", "give a USERID, or --all with --out FILE; --resume goes with --all")
    settings = load_or_fail("key prove", config)
    count = _Count()
    try:
        with _output(out, resume=resume) as (file, after), aws_or_fail("key prove"):
            asyncio.run(_export(settings, userid, after, file, count))
    except KeyboardInterrupt:
        typer.echo("stopped" + ("; continue with --resume" if everything else ""), err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except OSError as error:
        fail_for_file("key prove", out or "standard output", error)
    except KeyProofError as error:
        fail("key prove", str(error))
    except SignerError as error:
        if error.code is not ErrorCode.UNKNOWN_USER:
            fail("key prove", error.detail)
        typer.echo(f"{userid}: {error.detail}", err=True)
        raise typer.Exit(EXIT_REFUSED) from error
    if out is not None:
        if as_json:
            print_json({"file": str(out), "keys": count.written, "complaints": count.complaints})
        else:
            keys = "1 key" if count.written == 1 else f"{count.written} keys"
            print(f"{keys} written to {out}" + (f"; see {count.complaints} above" if count.complaints else ""))
    if count.complaints:
        raise typer.Exit(EXIT_REFUSED)


@app.command(epilog=examples("nitro-signer key verify keys.jsonl --pcr0 3f1c…9a --pcr0 77d0…41"))
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
        with _input(file) as (source, size_bytes), progress_bar("verifying", "keys", size_bytes) as bar:
            lines = read_lines(source, start_line=start_line)
            done_bytes = 0
            for verdict in judge_all(lines, demands, processes=processes or len(os.sched_getaffinity(0))):
                tally.add(verdict)
                last_line = verdict.line
                done_bytes += verdict.size_bytes
                bar(done_bytes, items=tally.keys)
    except KeyboardInterrupt:
        typer.echo(f"stopped; continue with --start-line {last_line + 1}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except OSError as error:
        fail_for_file("key verify", file, error)
    if not tally.keys:
        fail("key verify", f"{file}: no key proof" + (f" from line {start_line} on" if start_line > 1 else ""))
    tally.print_sum()
    if tally.refused:
        raise typer.Exit(EXIT_REFUSED)


async def _export(
    settings: WorkerSettings, userid: str | None, after: str | None, file: BinaryIO, count: _Count
) -> None:
    """Write what is asked for, and count."""
    from aiobotocore.session import AioSession

    from workers.aws import dynamodb_client
    from workers.keys.dynamodb import DynamoDbCalls

    store = settings.store
    session = AioSession()
    session.set_config_variable("region", settings.region)
    async with dynamodb_client(
        session, connections=1, read_timeout_s=store.call_timeout_s, tries=_TRIES_BY_OURSELVES
    ) as client:
        calls = DynamoDbCalls(client, call_timeout_s=store.call_timeout_s, tries=store.call_tries)
        try:
            if userid is not None:
                _write(await export_one(calls, store, userid), file, count)
                return
            with progress_bar("exporting", "keys", None) as bar:
                async for proof in export_all(calls, store, after=after):
                    _write(proof, file, count)
                    bar(0, items=count.written)
        except SignerError as error:
            if error.code is ErrorCode.STORE_UNAVAILABLE and calls.trouble is not None:
                raise SignerError(error.code, f"{error.detail}: {calls.trouble}") from error
            raise


def _write(proof: KeyProof | UnreadableRow, file: BinaryIO, count: _Count) -> None:
    """Write a proof, and say what is wrong with it."""
    if isinstance(proof, UnreadableRow):
        count.complaints += 1
        typer.echo(f"{proof.userid}: not exported: {proof.reason}", err=True)
        return
    file.write(proof.to_line())
    count.written += 1
    if proof.stored_record_is_certified is None:
        count.complaints += 1
        typer.echo(f"{proof.userid}: no birth certificate is stored", err=True)
    elif not proof.stored_record_is_certified:
        count.complaints += 1
        typer.echo(f"{proof.userid}: the stored record is not the one that was certified", err=True)


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
