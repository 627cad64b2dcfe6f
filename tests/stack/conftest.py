"""A whole local stack in child processes, started once for the tests of this folder that share it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack.harness import Client, Up


@pytest.fixture(scope="session")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack for all tests that leave no trace on its queues."""
    up = Up(tmp_path_factory.mktemp("stack"))
    yield up
    assert up.stop() == 0


@pytest.fixture
def client(shared_up: Up) -> Client:
    """A client of the shared stack."""
    return Client(shared_up.facts)


@pytest.fixture
def start_up() -> Iterator[Callable[[Path], Up]]:
    """Start stacks of one's own; they are killed if the test does not stop them."""
    started: list[Up] = []

    def start(state: Path) -> Up:
        started.append(Up(state))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
        if up.process.stdout is not None:
            up.process.stdout.close()
