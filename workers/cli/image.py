"""`nitro-signer image pcrs`: measures an enclave image file without the Nitro CLI."""

from pathlib import Path
from typing import Annotated, Final

import typer

from workers.cli.build_output import BuildOutputError, read_measurements
from workers.cli.examples import examples
from workers.cli.output import EXIT_REFUSED, fail, print_facts, print_json
from workers.image import EifError, measure, parse_image

app = typer.Typer(no_args_is_help=True, help="Enclave image files.")

_COMMAND: Final = "image pcrs"


@app.callback()
def image() -> None:
    """Enclave image files."""


@app.command(epilog=examples("nitro-signer image pcrs generator.eif --compare generator.json"))
def pcrs(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The image (EIF).")],
    *,
    compare: Annotated[
        Path | None, typer.Option(metavar="JSON", help="What `nitro-cli build-enclave` printed about it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help='As nitro-cli does: {"Measurements": {…}}.')] = False,
) -> None:
    """Print PCR0, PCR1, PCR2 and, of a signed image, PCR8.

    Exit 0; 1 for a file that is no sound image, or other measurements than those of --compare; 2 for a misuse.
    """
    try:
        parsed = parse_image(file.read_bytes())
        found = measure(parsed).as_hex()
    except OSError as error:
        fail(_COMMAND, f"{file}: {error.strerror}")
    except EifError as error:
        typer.echo(f"{_COMMAND}: {file}: {error}", err=True)
        raise typer.Exit(EXIT_REFUSED) from error
    if as_json:
        print_json({"Measurements": {"HashAlgorithm": "Sha384 { ... }", **found}})
    else:
        print_facts({**found, "made for": parsed.architecture.value})
    if compare is None:
        return
    expected = _expected(compare)
    different = sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name))
    for name in different:
        typer.echo(f"{_COMMAND}: {name} is not that of {compare}: {expected.get(name, 'none')}", err=True)
    if different:
        raise typer.Exit(EXIT_REFUSED)
    if not as_json:
        print(f"the same as in {compare}")


def _expected(path: Path) -> dict[str, str]:
    try:
        return read_measurements(path.read_text(errors="replace"))
    except OSError as error:
        fail(_COMMAND, f"{path}: {error.strerror}")
    except BuildOutputError as error:
        fail(_COMMAND, f"{path}: {error}")
