"""The client against a service in memory, in virtual time."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.workers.client.double import Service
from tests.workers.queue.conftest import JumpingLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give every test of this folder virtual time, except those that talk to real servers."""
    if item.get_closest_marker("stack"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": JumpingLoop}


@pytest.fixture
def service() -> Iterator[Service]:
    """A service, after which no misuse of SQS is tolerated, and no queue is left behind."""
    made = Service()
    yield made
    assert made.misuse == []
    assert made.made == []
