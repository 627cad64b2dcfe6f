"""Log events of an enclave, written again by the parent: the enclave has no console of its own."""

import re
from collections.abc import Callable
from typing import Any, Final

import structlog

from config.fields import ENCLAVE_FIELDS
from protocol.address import Address
from protocol.messages import Events

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})
_MAX_EVENTS: Final = 100
"""Of one notice, as many as an enclave of ours puts in; the rest is counted."""

log = structlog.get_logger()


def event_relay(address: Address) -> Callable[[Events], None]:
    """Return what takes the events of one enclave process."""

    def relay(events: Events) -> None:
        for event in events.events[:_MAX_EVENTS]:
            _relay_one(address, event)
        dropped = events.dropped + len(events.events[_MAX_EVENTS:])
        if dropped:
            log.warning("enclave_events_dropped", source="enclave", address=str(address), dropped=dropped)

    return relay


def _relay_one(address: Address, event: dict[str, Any]) -> None:
    """Write an event with the fields that an enclave may set; it is hostile until measured, and a log is read."""
    name, level, time = event.get("event"), event.get("level"), event.get("time")
    is_known = isinstance(name, str) and _NAME.fullmatch(name) is not None
    write = getattr(log, level if isinstance(level, str) and level in _LEVELS else "warning")
    write(
        name if is_known else "enclave_event_unnamed",
        source="enclave",
        address=str(address),
        enclave_time=time if isinstance(time, (int, float)) else None,
        **{field: value for field in ENCLAVE_FIELDS if isinstance(value := event.get(field), (str, int, float))},
    )
