"""`nitro-signer worker`: runs one worker process.

Exit codes: 0 after a drain that settled every message; 1 after a failure, or when messages were left unsettled (they
come again after their visibility timeout); 2 for a configuration that cannot be used.
"""

import asyncio
import os
import secrets
from typing import TYPE_CHECKING, Final

import structlog
import typer

from config.logging import configure_logging
from protocol.clock import system_clock
from workers.cli.settings import ConfigOption, load_or_fail, role_or_fail

if TYPE_CHECKING:
    from pathlib import Path

    from config.worker import WorkerRole

EXIT_FAILED: Final = 1

_EPILOG = (
    "SIGTERM drains, a second one stops. Exit code 0: every message settled; 1: failed, or messages left to their "
    "visibility timeout; 2: bad configuration. Example: nitro-signer worker {role} --config worker.toml"
)

app = typer.Typer(no_args_is_help=True, help="Run a worker process.")


@app.callback()
def worker() -> None:
    """Run a worker process: takes jobs from its queue, has an enclave do them, and replies."""


@app.command(epilog=_EPILOG.format(role="generate"))
def generate(config: ConfigOption) -> None:
    """Make keys."""
    _run("generate", config)


@app.command(epilog=_EPILOG.format(role="sign"))
def sign(config: ConfigOption) -> None:
    """Sign messages."""
    _run("sign", config)


def _run(role: "WorkerRole", config: "Path") -> None:
    settings = load_or_fail("worker", config)
    role_or_fail("worker", config, settings, role)
    configure_logging(f"{role}-worker", level=settings.log_level)

    from workers.program import Surroundings, run_worker
    from workers.sdnotify import Notifier

    surroundings = Surroundings(
        clock=system_clock,
        uniform=secrets.SystemRandom().random,
        notifier=Notifier.from_environment(os.environ),
    )
    try:
        is_drained = asyncio.run(run_worker(role, settings, surroundings))
    except Exception as error:
        structlog.get_logger().critical("worker_failed", exc_info=error)
        raise typer.Exit(EXIT_FAILED) from error
    raise typer.Exit(0 if is_drained else EXIT_FAILED)
