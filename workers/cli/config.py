"""`nitro-signer config`: looks at a configuration file without using it."""

from pathlib import Path
from typing import Annotated

import typer

from workers.cli.examples import examples
from workers.cli.output import print_json
from workers.cli.settings import load_or_fail

app = typer.Typer(no_args_is_help=True, help="Settings of the workers.")


@app.callback()
def config() -> None:
    """Settings of the workers."""


@app.command(epilog=examples("nitro-signer config check worker.toml"))
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Settings of the workers (TOML).")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Say whether a file can be used; NITRO_SIGNER_* variables count.

    Exit 0 when it can; 2 when it cannot: one line names the key that is wrong and what it may be.
    """
    settings = load_or_fail("config", file)
    roles = [name for name, role in (("generate", settings.generate), ("sign", settings.sign)) if role is not None]
    if as_json:
        print_json({"ok": True, "file": str(file), "roles": roles, "region": settings.region})
        return
    print(f"ok: {file}: {' and '.join(roles)} in {settings.region}")
