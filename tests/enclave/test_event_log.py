"""Log events on their way to the parent: an allow-list of fields, a bounded ring, and nothing lost in silence."""

from __future__ import annotations

import asyncio
import logging

import pytest
import structlog

from enclave.event_log import EventLog, configure_logging
from protocol.messages import Events
from tests.enclave.parts import Time


@pytest.fixture
def event_log() -> EventLog:
    """Give a log that receives what this process logs."""
    log = EventLog(Time(1000.5))
    configure_logging(log)
    return log


def test_an_event_has_name_level_and_time(event_log: EventLog) -> None:
    """And the fields of the list."""
    structlog.get_logger().warning("clock_drift", offset_s=1.5)
    events = event_log.take()
    assert events == Events(
        events=({"event": "clock_drift", "level": "warning", "time": 1000.5, "offset_s": 1.5},), dropped=0
    )
    assert event_log.take() is None


def test_fields_that_are_not_on_the_list_stay_inside(event_log: EventLog) -> None:
    """Whatever somebody logs by mistake."""
    structlog.get_logger().error("x", private_key="secret", userid="u", message=b"m", reason="r" * 1000, code=7)
    events = event_log.take()
    assert events is not None
    [entry] = events.events
    assert set(entry) == {"event", "level", "time", "reason", "code"}
    assert entry["reason"] == "r" * 256


def test_what_libraries_report_comes_without_its_text(event_log: EventLog, capfd: pytest.CaptureFixture[str]) -> None:
    """Who, and the class of the exception: texts may quote anything. Nothing goes to a console that nobody reads."""
    logging.getLogger("asyncio").error("a secret", exc_info=ValueError("another secret"))
    logging.getLogger("aiohttp.client").warning("a third %s", "secret")
    logging.getLogger("botocore.auth").info("headers")
    events = event_log.take()
    assert events is not None
    rest = {"event": "library_report", "level": "warning", "time": 1000.5}
    assert events.events == (
        {**rest, "library": "asyncio", "error_type": "ValueError"},
        {**rest, "library": "aiohttp.client"},
    )
    assert capfd.readouterr() == ("", "")


def test_a_value_of_another_kind_becomes_short_text(event_log: EventLog) -> None:
    """Only plain values cross."""
    structlog.get_logger().error("y" * 1000, reason=ValueError("x" * 1000), count=True)
    events = event_log.take()
    assert events is not None
    assert events.events[0]["event"] == "y" * 256
    assert len(events.events[0]["reason"]) == 256
    assert events.events[0]["count"] is True


def test_the_ring_is_bounded_and_counts_what_it_loses(event_log: EventLog) -> None:
    """The oldest go first."""
    for number in range(1005):
        structlog.get_logger().info("x", count=number)
    events = event_log.take()
    assert events is not None
    assert (events.dropped, len(events.events), events.events[0]["count"]) == (5, 100, 5)
    assert (event_log.take() or events).dropped == 0


def test_put_back_keeps_the_order(event_log: EventLog) -> None:
    """As if they had never been taken."""
    for number in range(3):
        structlog.get_logger().info("x", count=number)
    events = event_log.take()
    assert events is not None
    structlog.get_logger().info("x", count=3)
    event_log.put_back(events)
    again = event_log.take()
    assert again is not None
    assert [entry["count"] for entry in again.events] == [0, 1, 2, 3]


def test_what_does_not_fit_back_is_counted(event_log: EventLog) -> None:
    """The ring filled up meanwhile: the oldest are lost, and said to be."""
    for number in range(50):
        structlog.get_logger().info("x", count=number)
    events = event_log.take()
    assert events is not None
    for number in range(980):
        structlog.get_logger().info("x", count=100 + number)
    event_log.put_back(events.model_copy(update={"dropped": 2}))
    again = event_log.take()
    assert again is not None
    assert (again.dropped, again.events[0]["count"]) == (32, 30)


async def test_delivery_waits_until_somebody_takes_them(event_log: EventLog) -> None:
    """Nothing is lost while nobody listens."""
    taken: list[Events] = []
    refusals = 0
    everything = asyncio.Event()

    def publish(events: Events) -> bool:
        nonlocal refusals
        if refusals < 1:
            refusals += 1
            return False
        taken.append(events)
        everything.set()
        return True

    structlog.get_logger().info("first")
    async with asyncio.TaskGroup() as group:
        delivery = group.create_task(event_log.deliver(publish))
        await everything.wait()
        delivery.cancel()
    assert [entry["event"] for events in taken for entry in events.events] == ["first"]
