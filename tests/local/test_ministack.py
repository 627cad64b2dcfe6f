"""MiniStack as a child process: its state and port survive a restart, and it never outlives its parent."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from local.ministack import HOST, MiniStackError, run_ministack

PYTHON = Path(__file__).resolve().parents[2] / ".venv-ministack" / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-ministack: run `make setup`")


async def _get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def _queue_count(port: int) -> int:
    return (await _get(port, "/?Action=ListQueues&Version=2012-11-05")).count(b"<QueueUrl>")


async def test_state_and_port_survive_a_clean_stop(tmp_path: Path) -> None:
    """A queue made before a stop is there after the next start, under the same URL."""
    log = tmp_path / "log"
    async with run_ministack(PYTHON, tmp_path / "state", log=log) as first:
        await _get(first.port, "/?Action=CreateQueue&QueueName=q1&Version=2012-11-05")
        assert await _queue_count(first.port) == 1
    async with run_ministack(PYTHON, tmp_path / "state", log=log) as second:
        assert second.port == first.port
        assert second.endpoint_url == f"http://127.0.0.1:{first.port}"
        assert await _queue_count(second.port) == 1
    assert second.child.process.returncode == 0


async def test_port_taken_is_named(tmp_path: Path) -> None:
    """A port that somebody else took since is an error, never another port: the queue URLs hold it."""
    state = tmp_path / "state"
    state.mkdir()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        (state / "port").write_text(str(taken.getsockname()[1]))
        with pytest.raises(MiniStackError, match=str(taken.getsockname()[1])):
            async with run_ministack(PYTHON, state, log=tmp_path / "log"):
                pass


async def test_missing_environment_is_named(tmp_path: Path) -> None:
    """Without its virtual environment, the error says what to run."""
    with pytest.raises(MiniStackError, match="make setup"):
        async with run_ministack(tmp_path / "python", tmp_path, log=tmp_path / "log"):
            pass


async def test_program_that_ends_at_once_is_reported(tmp_path: Path) -> None:
    """A program that ends instead of answering is an error at once, not after the time-out."""
    with pytest.raises(MiniStackError, match="ended at once"):
        async with run_ministack(Path("/bin/false"), tmp_path / "state", log=tmp_path / "log"):
            pass


def test_it_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """After `kill -9` of its parent the kernel ends MiniStack: nobody is left listening."""
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from local.ministack import run_ministack\n"
        "async def main():\n"
        "    here = Path(sys.argv[2])\n"
        "    async with run_ministack(Path(sys.argv[1]), here / 'state', log=here / 'log') as running:\n"
        "        print(running.child.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(PYTHON), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watched = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            _wait_ended(watched)
        finally:
            os.close(watched)


def _wait_ended(pidfd: int) -> None:
    readable, _, _ = select.select([pidfd], [], [], 30)
    assert readable == [pidfd]
