"""`nitro-signer config`: looks at a configuration file without using it."""

from pathlib import Path
from typing import Annotated

import typer

from workers.cli.settings import load_or_fail

app = typer.Typer(no_args_is_help=True, help="Settings of the workers.")


@app.callback()
def config() -> None:
    """Settings of the workers."""


@app.command(epilog="Example: nitro-signer config check worker.toml")
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="Settings of the workers (TOML).")]) -> None:
    """Print ok, or the key that is wrong and what it may be (exit code 2). NITRO_SIGNER_* variables count."""
    settings = load_or_fail("config", file)
    roles = [name for name, role in (("generate", settings.generate), ("sign", settings.sign)) if role is not None]
    print(f"ok: {file}: {' and '.join(roles)} in {settings.region}")
