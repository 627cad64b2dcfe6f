"""`status` asks the workers of the instance: what their health endpoints say, and what is said in place of one."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import pytest

from config.worker import load_worker_settings
from workers.cli.worker_rows import rows_of, worker_rows
from workers.service.health import HealthBoard, ProcessHealth
from workers.service.health_server import serve_health

if TYPE_CHECKING:
    from pathlib import Path

    from config.worker import WorkerSettings

QUEUES = "https://sqs.eu-central-1.amazonaws.com/111122223333"
GOOD = ProcessHealth(
    enclave_up=True, paused=False, draining=False, in_flight=3, last_poll_age_s=1.0, credentials_left_s=900.0
)


def settings_with(folder: Path, port: int | None) -> WorkerSettings:
    """Settings of a machine that signs."""
    path = folder / "worker.toml"
    health = "" if port is None else f"health_port = {port}"
    path.write_text(
        f"""
        region = "eu-central-1"
        [sign]
        enclaves = ["unix:///run/signer.sock"]
        {health}
        [sign.engine]
        queue_url = "{QUEUES}/sign"
        reply_queue_url = "{QUEUES}/reply"
        """
    )
    return load_worker_settings(path)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_row_for_each_process(tmp_path: Path) -> None:
    """Ready or why not, as `/readyz` judges it; a process that has not reported yet is not ready."""
    board = HealthBoard(3, 60.0)
    board.note(0, GOOD, 0.0)
    board.note(1, GOOD.model_copy(update={"paused": True, "enclave_up": False}), 0.0)
    port = free_port()
    async with serve_health(board, port, role="sign", clock=lambda: 0.0):
        rows = await worker_rows(settings_with(tmp_path, port))
    assert rows == [
        {"role": "sign", "process": 0, "ready": True, "in_flight": 3, "last_poll_s": 1.0, "reason": None},
        {
            "role": "sign", "process": 1, "ready": False, "in_flight": 3, "last_poll_s": 1.0,
            "reason": "no_enclave, paused",
        },
        {"role": "sign", "process": 2, "ready": False, "in_flight": None, "last_poll_s": None, "reason": "silent"},
    ]  # fmt: skip


async def test_a_worker_that_is_down_is_not_ready(tmp_path: Path) -> None:
    """Nobody listens, or what listens speaks no HTTP."""
    port = free_port()
    [row] = await worker_rows(settings_with(tmp_path, port))
    assert (row["ready"], row["reason"]) == (False, f"no worker answers on 127.0.0.1:{port}")

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail.example.com\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", port):
        [row] = await worker_rows(settings_with(tmp_path, port))
    assert (row["ready"], row["reason"]) == (False, f"no worker answers on 127.0.0.1:{port}")


async def test_a_worker_without_an_endpoint_is_not_judged(tmp_path: Path) -> None:
    """Neither ready nor not."""
    [row] = await worker_rows(settings_with(tmp_path, None))
    assert (row["ready"], row["reason"]) == (None, "not known: sign.health_port is not set")


@pytest.mark.parametrize(
    "answer", [b"", b"<html>", b"[]", b"{}", json.dumps({"role": "generate", "problems": {}, "processes": []}).encode()]
)
def test_the_answer_of_another_program(answer: bytes) -> None:
    """No JSON, other JSON, or the other worker."""
    [row] = rows_of("sign", answer)
    assert (row["ready"], row["reason"]) == (False, "another program answers on its health_port")
