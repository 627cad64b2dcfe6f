"""Clients of the stack that tests share (`tests/conftest.py` starts it), and stacks of one's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack.harness import Client, Up


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
