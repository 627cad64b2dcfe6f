"""`nitro-signer image pcrs` and `image pack`: measure and make enclave image files without the Nitro CLI."""

from pathlib import Path
from typing import Annotated, Final

import typer

from workers.cli.build_output import BuildOutputError, read_measurements
from workers.cli.examples import examples
from workers.cli.output import EXIT_REFUSED, fail, print_facts, print_json
from workers.image import Architecture, EifError, make_metadata, measure, pack_image, parse_image

app = typer.Typer(no_args_is_help=True, help="Enclave image files.")

_COMMAND: Final = "image pcrs"
_PACK: Final = "image pack"
_MIB: Final = 1 << 20


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


@app.command(
    epilog=examples(
        "nitro-signer image pack --kernel bzImage --command-line 'reboot=k panic=-1' "
        "--ramdisk boot.cpio.gz --ramdisk program.cpio.gz --output image.eif"
    )
)
def pack(
    *,
    kernel: Annotated[Path, typer.Option(metavar="FILE", help="A bzImage (x86_64) or Image (arm64).")],
    command_line: Annotated[str, typer.Option(metavar="TEXT", help="Of the kernel. Measured, to the last space.")],
    ramdisk: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="A cpio archive. Again for each: the first boots (PCR1), the rest are PCR2."),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The image to write. One that is there is replaced.")],
    name: Annotated[str, typer.Option(help="Told by nitro-cli describe-eif; not measured.")] = "enclave",
    version: Annotated[str, typer.Option(help="The same.")] = "1.0",
    memory_mib: Annotated[int, typer.Option(min=64, help="Proposed to nitro-cli run-enclave; not measured.")] = 1024,
    cpus: Annotated[int, typer.Option(min=1, help="The same.")] = 2,
    arch: Annotated[Architecture, typer.Option(help="What kernel and ramdisks are made for.")] = Architecture.X86_64,
    as_json: Annotated[bool, typer.Option("--json", help='As nitro-cli does: {"Measurements": {…}}.')] = False,
) -> None:
    """Pack kernel, command line and ramdisks into an image, and print its PCR0, PCR1 and PCR2.

    The same parts give the same bytes. Exit 0; 2 for files that cannot be read or written, or parts that make no image.
    """
    try:
        image = pack_image(
            kernel=kernel.read_bytes(),
            command_line=command_line.encode(),
            ramdisks=[path.read_bytes() for path in ramdisk],
            metadata=make_metadata(name=name, version=version),
            architecture=arch,
            default_memory_bytes=memory_mib * _MIB,
            default_cpus=cpus,
        )
        found = measure(parse_image(image)).as_hex()
        output.write_bytes(image)
    except OSError as error:
        fail(_PACK, f"{error.filename}: {error.strerror}")
    except EifError as error:
        fail(_PACK, str(error))
    if as_json:
        print_json({"Measurements": {"HashAlgorithm": "Sha384 { ... }", **found}})
    else:
        print_facts({"image": str(output), **found})


def _expected(path: Path) -> dict[str, str]:
    try:
        return read_measurements(path.read_text(errors="replace"))
    except OSError as error:
        fail(_COMMAND, f"{path}: {error.strerror}")
    except BuildOutputError as error:
        fail(_COMMAND, f"{path}: {error}")
