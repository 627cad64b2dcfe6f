"""`nitro-signer worker`: runs the worker processes of one kind on an instance.

Exit codes: 0 after a drain that settled every message; 1 after a failure, or when messages were left unsettled (they
come again after their visibility timeout); 2 for a configuration that cannot be used; 3 for a crash loop: several
processes of the group end faster than restarting them makes sense.
"""

import asyncio
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import structlog
import typer

from config.logging import configure_logging
from protocol.clock import system_clock
from workers.cli.examples import examples
from workers.cli.output import fail
from workers.cli.settings import ConfigOption, load_or_fail, role_or_fail

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from typing import Any

    from config.engine import EngineSettings
    from config.worker import RoleSettings, WorkerRole, WorkerSettings

EXIT_FAILED: Final = 1

_NOTE = (
    "SIGTERM drains, a second one stops. Exit code 0: every message settled; 1: failed, or messages left to their "
    "visibility timeout; 2: bad configuration; 3: crash loop."
)

app = typer.Typer(no_args_is_help=True, help="Run the worker processes of an instance.")

ParentOption = Annotated[
    int | None, typer.Option(hidden=True, help="Process id of the group that this process belongs to.")
]


@app.callback()
def worker() -> None:
    """Run worker processes: each takes jobs from its queue, has an enclave do them, and replies."""


@app.command(epilog=examples("nitro-signer worker generate --config worker.toml", note=_NOTE))
def generate(config: ConfigOption, group: ParentOption = None) -> None:
    """Make keys."""
    _run("generate", config, group)


@app.command(epilog=examples("nitro-signer worker sign --config worker.toml", note=_NOTE))
def sign(config: ConfigOption, group: ParentOption = None) -> None:
    """Sign messages."""
    _run("sign", config, group)


def _run(role: "WorkerRole", config: "Path", group: int | None) -> None:
    """Be one process of a group, the only process, or the group."""
    settings = load_or_fail("worker", config)
    chosen = role_or_fail("worker", config, settings, role)
    configure_logging(f"{role}-worker", level=settings.log_level)
    if group is not None:
        raise typer.Exit(_run_logged(_member(role, settings, group)))
    if chosen.workers_per_instance == 1:
        raise typer.Exit(_run_logged(_single(role, settings, chosen)))
    raise typer.Exit(_run_logged(_group(role, chosen, config)))


def _run_logged(work: "Coroutine[Any, Any, int]") -> int:
    from botocore.exceptions import ConfigParseError, InvalidConfigError, PartialCredentialsError, ProfileNotFound

    from workers.service.health_server import HealthPortError

    try:
        return asyncio.run(work)
    except HealthPortError as error:
        structlog.get_logger().critical("health_port_taken", address=str(error))
        return EXIT_FAILED
    except (ConfigParseError, InvalidConfigError, PartialCredentialsError, ProfileNotFound) as error:
        fail("worker", str(error))  # what the SDK was told cannot be used, and will not be by trying again
    except Exception as error:  # noqa: BLE001 - whatever it is, the log says it and the code tells
        structlog.get_logger().critical("worker_failed", exc_info=error)
        return EXIT_FAILED


async def _member(role: "WorkerRole", settings: "WorkerSettings", group: int) -> int:
    from workers.service.parent_death import drain_with_parent
    from workers.service.process_group import PROCESS_VARIABLE
    from workers.service.program import Surroundings, run_worker
    from workers.service.sdnotify import Notifier

    notifier = Notifier.from_environment(os.environ)
    surroundings = Surroundings(
        clock=system_clock,
        uniform=secrets.SystemRandom().random,
        notifier=notifier,
        tell_health=lambda health: notifier.health(health.model_dump_json()),
        write_line=_write_line,
        reports_enclaves=os.environ.get(PROCESS_VARIABLE) == "0",
    )
    drain_with_parent(group)
    return 0 if await run_worker(role, settings, surroundings) else EXIT_FAILED


async def _single(role: "WorkerRole", settings: "WorkerSettings", chosen: "RoleSettings") -> int:
    from workers.service.health import HealthBoard
    from workers.service.health_server import serve_health
    from workers.service.program import Surroundings, run_worker
    from workers.service.sdnotify import Notifier

    board = HealthBoard(1, _longest_poll_s(chosen.engine))
    surroundings = Surroundings(
        clock=system_clock,
        uniform=secrets.SystemRandom().random,
        notifier=Notifier.from_environment(os.environ),
        tell_health=lambda health: board.note(0, health, time.monotonic()),
        write_line=_write_line,
    )
    async with serve_health(board, chosen.health_port, role=role, clock=time.monotonic):
        return 0 if await run_worker(role, settings, surroundings) else EXIT_FAILED


async def _group(role: "WorkerRole", chosen: "RoleSettings", config: "Path") -> int:
    from workers.queue.stopping import Stop
    from workers.service.health import HealthBoard
    from workers.service.health_server import serve_health
    from workers.service.process_group import GroupSettings, ProcessGroup, inherited_environ
    from workers.service.program import stop_signals
    from workers.service.sdnotify import Notifier

    engine = chosen.engine
    board = HealthBoard(chosen.workers_per_instance, _longest_poll_s(engine))
    command = (sys.executable, "-m", "workers", "worker", role, "--config", str(config), "--group", str(os.getpid()))
    group = ProcessGroup(
        GroupSettings(
            processes=chosen.workers_per_instance,
            command=command,
            environ=inherited_environ(),
            drain_s=engine.drain_deadline_s + engine.settle_timeout_s,
        ),
        board,
        Notifier.from_environment(os.environ),
        clock=time.monotonic,
        uniform=secrets.SystemRandom().random,
    )
    stop = Stop()
    with stop_signals(stop):
        async with serve_health(board, chosen.health_port, role=role, clock=time.monotonic):
            return await group.run(stop)


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _longest_poll_s(engine: "EngineSettings") -> float:
    """Return how far apart polls that succeed may be: one that fails, the back-off after it, one that works."""
    return 2 * (engine.wait_time_s + engine.call_timeout_s) + engine.receive_backoff_cap_s
