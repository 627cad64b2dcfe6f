"""The health endpoint: `GET /healthz` and `GET /readyz` on loopback, JSON, 200 or 503."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from aiohttp import web

from protocol.clock import Clock
from workers.service.health import HealthBoard, Problem

_HOST: Final = "127.0.0.1"
_END_S: Final = 1.0


class HealthPortError(Exception):
    """The health port cannot be had; its text is the address."""


@contextlib.asynccontextmanager
async def serve_health(board: HealthBoard, port: int | None, *, role: str, clock: Clock) -> AsyncGenerator[None, None]:
    """Answer until the end; `port` None answers nobody.

    Args:
        board: what there is to say.
        port: on 127.0.0.1.
        role: of the worker, shown in the answers.
        clock: the one that the board's reports are noted by.

    Raises:
        HealthPortError: the port cannot be had; somebody else has it, most likely.
    """
    if port is None:
        yield
        return

    def answer(problems: Mapping[int, list[Problem]]) -> web.Response:
        body = {
            "status": "unavailable" if problems else "ok",
            "role": role,
            "problems": {str(process): found for process, found in problems.items()},
            "processes": board.describe(clock()),
        }
        return web.json_response(body, status=503 if problems else 200)

    async def healthz(_request: web.Request) -> web.Response:
        return answer(board.ill(clock()))

    async def readyz(_request: web.Request) -> web.Response:
        return answer(board.not_ready(clock()))

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, _HOST, port).start()
        except OSError as error:
            raise HealthPortError(f"{_HOST}:{port}") from error
        yield
    finally:
        await runner.cleanup()
