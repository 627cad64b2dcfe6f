"""What systemd is told, over a real datagram socket."""

import asyncio
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from workers.service.sdnotify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Generator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify.sock"))
        sock.settimeout(0)
        yield sock


def test_states_arrive(systemd: socket.socket) -> None:
    """Ready, stopping and a one-line status arrive as sd_notify(3) writes them."""
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": systemd.getsockname()})
    notifier.ready()
    notifier.status("two\nlines")
    notifier.stopping()
    assert [systemd.recv(100) for _ in range(3)] == [b"READY=1", b"STATUS=two lines", b"STOPPING=1"]


def test_an_abstract_address_is_reached() -> None:
    """An address that begins with @ is in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # autobind: the kernel picks an abstract name
        Notifier("@" + sock.getsockname()[1:].decode()).ready()
        sock.settimeout(0)
        assert sock.recv(100) == b"READY=1"


def test_outside_systemd_nothing_is_sent(tmp_path: Path) -> None:
    """Without the variable, or with a socket that is gone, a state goes nowhere and nothing fails."""
    Notifier.from_environment({}).ready()
    Notifier(str(tmp_path / "gone")).ready()


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_it_names(environment: dict[str, str], watchdog_s: float | None) -> None:
    """The time is taken only when systemd watches this very process (sd_watchdog_enabled(3))."""
    assert Notifier.from_environment(environment, pid=7).watchdog_s == watchdog_s


async def test_signs_of_life_go_on(systemd: socket.socket) -> None:
    """While the loop runs they come one after another, until the task is cancelled."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Notifier(systemd.getsockname(), watchdog_s=0.002).keep_alive())
        assert [await loop.sock_recv(systemd, 100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        task.cancel()


async def test_without_a_watchdog_there_is_nothing_to_keep_alive(systemd: socket.socket) -> None:
    """The task ends at once and nothing is sent."""
    await Notifier(systemd.getsockname()).keep_alive()
    with pytest.raises(BlockingIOError):
        systemd.recv(100)
