"""The option `--config` of the commands that need the workers' settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.worker import CONFIG_VARIABLE, WorkerConfigError, load_worker_settings
from workers.cli.output import fail

if TYPE_CHECKING:
    from config.worker import RoleSettings, WorkerRole, WorkerSettings

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        help="Settings of the workers (TOML). NITRO_SIGNER_* variables override it.",
    ),
]


def load_or_fail(command: str, path: Path) -> "WorkerSettings":
    """Return the settings, or end with one line that names what is wrong, and exit code 2."""
    try:
        return load_worker_settings(path)
    except WorkerConfigError as error:
        fail(command, str(error))


def role_or_fail(command: str, path: Path, settings: "WorkerSettings", role: "WorkerRole") -> "RoleSettings":
    """Return the settings of one kind of worker, or end as `load_or_fail` does."""
    try:
        return settings.role(role)
    except WorkerConfigError as error:
        fail(command, f"{path}: {error}")
