"""Asks the health endpoints of the workers of this instance (see `workers.service.health_server`)."""

from typing import Final

from pydantic import BaseModel, ValidationError

from config.worker import RoleSettings, WorkerRole, WorkerSettings

Row = dict[str, str | int | float | bool | None]

_HOST: Final = "127.0.0.1"
_TIMEOUT_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 1 << 20


class _Process(BaseModel):
    process: int
    in_flight: int | None = None
    last_poll_age_s: float | None = None


class _Answer(BaseModel):
    """What of the answer of `/readyz` is shown; fields are missing of a process that has not reported yet."""

    role: str
    problems: dict[int, list[str]]
    processes: list[_Process]


async def worker_rows(settings: WorkerSettings) -> list[Row]:
    """Return a row for each worker process. `ready` is None for a worker whose settings have no `health_port`."""
    roles: tuple[tuple[WorkerRole, RoleSettings | None], ...] = (
        ("generate", settings.generate),
        ("sign", settings.sign),
    )
    return [row for name, role in roles if role is not None for row in await _rows(name, role.health_port)]


async def _rows(role: WorkerRole, port: int | None) -> list[Row]:
    if port is None:
        return [_row(role, ready=None, reason=f"not known: {role}.health_port is not set")]
    try:
        body = await _ask(port)
    except OSError:  # TimeoutError is one
        return [_row(role, ready=False, reason=f"no worker answers on {_HOST}:{port}")]
    return rows_of(role, body)


def rows_of(role: WorkerRole, body: bytes) -> list[Row]:
    """Return a row for each process that an answer speaks of, or one that says that it is no answer of this worker."""
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError:
        answer = None
    if answer is None or answer.role != role:
        return [_row(role, ready=False, reason="another program answers on its health_port")]
    rows: list[Row] = []
    for process in answer.processes:
        problems = answer.problems.get(process.process, [])
        row = _row(role, ready=not problems, reason=", ".join(problems) or None)
        shown = {"process": process.process, "in_flight": process.in_flight, "last_poll_s": process.last_poll_age_s}
        rows.append({**row, **shown})
    return rows


def _row(role: WorkerRole, *, ready: bool | None, reason: str | None) -> Row:
    return {"role": role, "process": None, "ready": ready, "in_flight": None, "last_poll_s": None, "reason": reason}


async def _ask(port: int) -> bytes:
    """Return what `/readyz` says, whether with 200 or with 503.

    Raises:
        OSError: nobody answers, or not in HTTP.
    """
    from aiohttp import ClientError, ClientSession, ClientTimeout

    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=_TIMEOUT_S), trust_env=False) as session,
            session.get(f"http://{_HOST}:{port}/readyz") as answer,
        ):
            return await answer.content.read(_MAX_ANSWER_BYTES)
    except (TimeoutError, ClientError) as error:
        raise OSError(str(error)) from error
