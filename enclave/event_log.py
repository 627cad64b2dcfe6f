"""Log events on their way to the parent: an enclave in production has no console.

Events wait in a bounded ring until a connection takes them; what the ring loses is counted and told.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

from config.fields import ENCLAVE_FIELDS
from protocol.clock import Clock
from protocol.messages import Events

_RING_EVENTS: Final = 1000
_EVENTS_PER_NOTICE: Final = 100
_MAX_TEXT: Final = 256
_FLUSH_INTERVAL_S: Final = 0.2


class EventLog:
    """The ring, a structlog processor that fills it, and the loop that empties it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[dict[str, Any]] = deque(maxlen=_RING_EVENTS)
        self._dropped = 0

    def process(self, _logger: object, level: str, event: MutableMapping[str, Any]) -> str:
        """Take one event from structlog; fields that are not on the list are left out."""
        if len(self._ring) == _RING_EVENTS:
            self._dropped += 1
        entry: dict[str, Any] = {"event": str(event.pop("event"))[:_MAX_TEXT], "level": level, "time": self._clock()}
        for name in ENCLAVE_FIELDS & event.keys():
            value = event[name]
            entry[name] = value if isinstance(value, (bool, int, float)) else str(value)[:_MAX_TEXT]
        self._ring.append(entry)
        raise structlog.DropEvent  # nothing is printed: there is nobody to read it

    def take(self) -> Events | None:
        """Return the oldest events; None when there are none."""
        if not self._ring and not self._dropped:
            return None
        taken = [self._ring.popleft() for _ in range(min(len(self._ring), _EVENTS_PER_NOTICE))]
        events = Events(events=tuple(taken), dropped=self._dropped)
        self._dropped = 0
        return events

    def put_back(self, events: Events) -> None:
        """Return events that no connection could take."""
        self._dropped += events.dropped
        for entry in reversed(events.events):
            if len(self._ring) == _RING_EVENTS:
                self._dropped += 1
            else:
                self._ring.appendleft(entry)

    async def deliver(self, publish: Callable[[Events], bool]) -> None:
        """Hand events to `publish` until cancelled; it returns False while nobody can take them."""
        while True:
            events = self.take()
            if events is None or not publish(events):
                if events is not None:
                    self.put_back(events)
                await asyncio.sleep(_FLUSH_INTERVAL_S)


class _LibraryHandler(logging.Handler):
    """Brings what libraries and asyncio report into the ring: who reported, and the class of the exception.

    Their texts and tracebacks may quote a request or a credential; without this they would go to the console, which
    only debug mode has.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Make one event of it."""
        error = record.exc_info[1] if record.exc_info else None
        fields = {} if error is None else {"error_type": type(error).__name__}
        structlog.get_logger().warning("library_report", library=record.name, **fields)


def configure_logging(event_log: EventLog) -> None:
    """Send every log event of this process to the ring, and nothing to the console."""
    structlog.configure(processors=[event_log.process], cache_logger_on_first_use=False)
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)
