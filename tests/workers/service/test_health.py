"""Health: what a process says is judged, aged, summed up and served on loopback."""

import socket
from typing import Any

import pytest
from aiohttp import ClientSession

from workers.service.health import SILENT_AFTER_S, HealthBoard, Problem, ProcessHealth
from workers.service.health_server import serve_health

GOOD = ProcessHealth(
    enclave_up=True, paused=False, draining=False, in_flight=3, last_poll_age_s=1.0, credentials_left_s=900.0
)


def board_with(*healths: ProcessHealth) -> HealthBoard:
    """A board with a report of each process at time 0; polls may be 60 s apart."""
    board = HealthBoard(len(healths), 60.0)
    for process, health in enumerate(healths):
        board.note(process, health, 0.0)
    return board


def changed(**fields: Any) -> ProcessHealth:
    """A good report with something changed."""
    return GOOD.model_copy(update=fields)


def test_good_processes_are_healthy_and_ready() -> None:
    """No problem on either question."""
    board = board_with(GOOD, changed(credentials_left_s=None))
    assert (board.ill(1.0), board.not_ready(1.0)) == ({}, {})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"enclave_up": False}, Problem.NO_ENCLAVE),
        ({"credentials_left_s": 0.0}, Problem.NO_CREDENTIALS),
        ({"paused": True}, Problem.PAUSED),
        ({"draining": True}, Problem.DRAINING),
    ],
)
def test_what_a_restart_does_not_cure_is_not_ill(fields: dict[str, Any], problem: Problem) -> None:
    """One process that takes no jobs makes the service not ready, and nobody shall restart it for that."""
    board = board_with(GOOD, changed(**fields, last_poll_age_s=1.0))
    assert board.ill(1.0) == {}
    assert board.not_ready(1.0) == {1: [problem]}


def test_a_process_that_may_poll_and_does_not_is_ill() -> None:
    """But not while something keeps it from polling."""
    assert board_with(changed(last_poll_age_s=61.0)).ill(1.0) == {0: [Problem.NOT_POLLING]}
    assert board_with(changed(last_poll_age_s=61.0, paused=True)).ill(1.0) == {}


def test_silence_is_illness() -> None:
    """Of a process that never reported, that ended, or whose report is old."""
    board = board_with(GOOD, GOOD)
    board.forget(1)
    assert HealthBoard(1, 60.0).ill(0.0) == {0: [Problem.SILENT]}
    assert board.ill(1.0) == {1: [Problem.SILENT]}
    assert board.ill(SILENT_AFTER_S + 0.1) == {0: [Problem.SILENT], 1: [Problem.SILENT]}


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_the_endpoint_answers_with_status_and_reports() -> None:
    """200 and 503 with JSON that names process and problem; anything else is 404."""
    board, port = board_with(GOOD, changed(enclave_up=False)), free_port()
    async with serve_health(board, port, role="sign", clock=lambda: 2.0), ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
            said = await response.json()
            assert (response.status, said["status"], said["role"], said["problems"]) == (200, "ok", "sign", {})
            assert said["processes"][0] == {"process": 0, **GOOD.model_dump(), "report_age_s": 2.0}
        async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
            assert (response.status, (await response.json())["problems"]) == (503, {"1": ["no_enclave"]})
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            assert response.status == 404


async def test_without_a_port_nobody_listens() -> None:
    """The endpoint is asked for by configuration."""
    async with serve_health(board_with(GOOD), None, role="sign", clock=lambda: 0.0):
        pass
