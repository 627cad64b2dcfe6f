"""What holds for every test: nothing of this machine's settings, no connection that leaves it, logging as it was."""

from __future__ import annotations

import logging
import os
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stack.harness import Up

# A slow machine is no failure: no test of ours asserts how long anything takes.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

_VECTORS = Path(__file__).resolve().parents[1].parent / "shared" / "vectors"
"""Real documents and published signature vectors, kept beside the repository; not every machine has them."""

_LOCAL_FAMILIES = {socket.AF_UNIX, getattr(socket, "AF_VSOCK", socket.AF_UNIX), getattr(socket, "AF_NETLINK", 16)}


def _comes_from_outside(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(("AWS_", "SSL_CERT_")) or upper.endswith("_PROXY")


_STACK_TIMEOUT_S = 600
"""A dozen programs start and end in such a test: it may take minutes on a machine that is busy with other things."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of whole stacks more time than the others."""
    for item in items:
        if item.get_closest_marker("stack") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_STACK_TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Take away the variables that divert calls to AWS, before any other fixture can start a child process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if _comes_from_outside(name)]:
            patch.delenv(name)
        yield


def _stays_here(family: int, address: object) -> bool:
    if family in _LOCAL_FAMILIES:
        return True
    if not isinstance(address, tuple) or not address:
        return False
    try:
        return ip_address(str(address[0])).is_loopback
    except ValueError:
        return str(address[0]) == "localhost"


def _refuse_outside(event: str, arguments: tuple[object, ...]) -> None:
    """Stop the interpreter before it connects or sends to any address beyond loopback, Unix sockets and vsock."""
    if event not in {"socket.connect", "socket.sendto"}:
        return
    peer, address = arguments[0], arguments[1]
    if isinstance(peer, socket.SocketType) and not _stays_here(peer.family, address):
        # not an OSError: code under test that treats a refused connection as normal must not hide this
        raise RuntimeError(f"a test tried to reach {address!r}")


# An audit hook sees every connection of the process, whichever library makes it. It cannot be removed, hence once.
sys.addaudithook(_refuse_outside)


_RECURSION_LIMIT = sys.getrecursionlimit()


@pytest.fixture(autouse=True)
def usual_recursion_limit() -> None:
    """Undo what a library of the tests does at its import: py_ecc, below eth-account, lifts the limit for everybody.

    With it lifted, input that is nested too deeply overflows the stack instead of raising RecursionError.
    """
    sys.setrecursionlimit(_RECURSION_LIMIT)


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leave logging as it was: a command sets it up for its process, and this one has other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of shared vectors; a test that asks for it is skipped, with this reason, where there is none."""
    if not _VECTORS.is_dir():
        pytest.skip(f"no shared vectors at {_VECTORS}: these checks did not run")
    return _VECTORS


@pytest.fixture(scope="session")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One whole local stack in child processes, for all tests that leave no trace on its queues."""
    from tests.stack.harness import Up  # loads the SDK, which few tests need

    up = Up(tmp_path_factory.mktemp("stack"))
    yield up
    assert up.stop() == 0
