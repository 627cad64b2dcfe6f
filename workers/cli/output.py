"""What the commands share: exit codes, arguments of the same meaning, output for people and programs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

from protocol.attestation import AWS_NITRO_ROOT_G1, TrustRoot

EXIT_REFUSED: Final = 1
"""The command did its work, and the answer is no."""

EXIT_MISUSE: Final = 2
"""The command could not do its work: arguments, files, or nobody answers. (Typer's own code for bad arguments.)"""

PCR_BYTES: Final = 48


def read_root(path: Path | None) -> TrustRoot:
    """Return the root of a PEM file, that of AWS without one.

    Raises:
        typer.BadParameter: not readable, or not exactly one certificate.
    """
    if path is None:
        return AWS_NITRO_ROOT_G1
    try:
        return TrustRoot.from_pem(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--root") from error
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not a PEM file with one certificate", param_hint="--root") from error


def read_hex(option: str, text: str) -> bytes:
    """Return the bytes of hexadecimal digits.

    Raises:
        typer.BadParameter: other characters, or half a byte.
    """
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise typer.BadParameter("not hexadecimal digits in pairs", param_hint=option) from error


def read_pcr(option: str, text: str, *, may_be_zero: bool = False) -> bytes:
    """Return a PCR value; zeros are refused, because every enclave in debug mode has them.

    Raises:
        typer.BadParameter: not 96 hexadecimal digits, or all of them zero unless that is for the caller to judge.
    """
    value = read_hex(option, text)
    if len(value) != PCR_BYTES:
        raise typer.BadParameter(f"a PCR has {2 * PCR_BYTES} hexadecimal digits, not {len(text)}", param_hint=option)
    if not any(value) and not may_be_zero:
        raise typer.BadParameter(
            "all zeros is what an enclave in debug mode shows; it proves nothing", param_hint=option
        )
    return value


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value))


def print_facts(facts: Mapping[str, str]) -> None:
    """Print facts for people, one a line, aligned. What could move a terminal's cursor is shown escaped."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value if value.isprintable() else ascii(value)}")


def fail_for_file(command: str, file: Path | str, error: OSError) -> NoReturn:
    """End as `fail` does, for a file that cannot be read or written.

    Raises:
        BrokenPipeError: it was standard output, which nobody reads any more; that is for `workers.cli.main` to end.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    fail(command, f"{file}: {error.strerror}")


def fail(command: str, text: str) -> NoReturn:
    """End with one line on standard error: the command could not do its work."""
    typer.echo(f"{command}: {text}", err=True)
    raise typer.Exit(EXIT_MISUSE)
