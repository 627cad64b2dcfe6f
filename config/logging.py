"""Logging set-up: one JSON object a line, with fields from a closed list and nothing else."""

import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from enum import StrEnum, unique
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from config.fields import FIELDS, MAX_TEXT_CHARACTERS
from protocol.errors import RemoteProtocolError, SignerError

_ROOT: Final = Path(__file__).resolve().parent.parent
_EVENT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FIRST: Final = ("timestamp", "level", "role", "event")
"""For people who read lines from the left."""

_MAX_WHOLE_NUMBER: Final = 2**63
"""Larger numbers lose digits or fail in readers of JSON."""


class FieldNotListedError(Exception):
    """A log call has a field that is not in `config.fields`, or a value of a kind that is never logged. Tests only."""


@unique
class LogLevel(StrEnum):
    """The least severe level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As the standard library counts levels."""
        return logging.getLevelNamesMapping()[self.upper()]


class FieldFilter:
    """A structlog processor: lets listed fields through, with bounded values.

    Args:
        strict: raise on a field that is not listed, as tests want it, instead of leaving it out and naming it.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict

    def __call__(self, _logger: object, _level: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """Return the line as it may be written."""
        line: dict[str, Any] = {name: None for name in _FIRST if name in event}
        refused: list[str] = []
        for name, value in event.items():
            written = _written(name, value) if name in FIELDS else _NEVER
            if written is _NEVER:
                refused.append(name)
                line.pop(name, None)
            else:
                line[name] = written
        if refused:
            if self._strict:
                raise FieldNotListedError(f"{event.get('event')}: {', '.join(sorted(refused))}")
            line["dropped_fields"] = ",".join(sorted(refused))[:MAX_TEXT_CHARACTERS]
        return line


_NEVER: Final = object()


def _written(name: str, value: object) -> object:
    """Return the value as JSON shows it; `_NEVER` for bytes, containers, objects, and an event that is no name."""
    if name == "event":
        return value if isinstance(value, str) and _EVENT_NAME.fullmatch(value) else _NEVER
    match value:
        case str():  # most are
            return str(value)[:MAX_TEXT_CHARACTERS]
        case None | bool():
            return value
        case int():
            return value if abs(value) < _MAX_WHOLE_NUMBER else _NEVER
        case float():
            return value if math.isfinite(value) else _NEVER
        case _:
            return _NEVER


def describe_exception(_logger: object, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace `exc_info` by the exception's class, our own code if it has one, and our own line that met it.

    Texts and tracebacks of exceptions can quote what they failed on; they are never written.
    """
    error = _exception_of(event.pop("exc_info", None))
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # the others are most often its consequences
    if error is not None:
        event["error_type"] = type(error).__name__
        if isinstance(error, (SignerError, RemoteProtocolError)):
            event["code"] = error.code.value
        place = _own_place(error)
        if place is not None:
            event["error_place"] = place
    return event


def _exception_of(exc_info: object) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exception()
        case _:
            return None


def _own_place(error: BaseException) -> str | None:
    """Return file and line of the innermost frame in this project's code."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and "site-packages" not in path.parts:
            return f"{path.relative_to(_ROOT)}:{frame.lineno}"
    return None


def _render(_logger: object, _level: str, line: MutableMapping[str, Any]) -> str:
    return _ENCODE(line)


_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode
"""Made once; structlog's own renderer makes one for each line."""


class _LibraryHandler(logging.Handler):
    """Brings what libraries report into the same lines: who reported, and the class of the exception. Not the text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write("library_report", library=record.name, exc_info=record.exc_info)


def configure_logging(
    role: str, *, stream: TextIO | None = None, level: LogLevel = LogLevel.INFO, strict: bool = False
) -> None:
    """Set logging up for this process; called once, where a program starts.

    Args:
        role: name of the program in each line.
        stream: where lines go; standard output unless given.
        level: least severe level that is written.
        strict: see `FieldFilter`.
    """
    pid = os.getpid()

    def add_program(_logger: object, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["role"], event["pid"] = role, pid
        return event

    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.add_log_level,
            add_program,
            describe_exception,
            FieldFilter(strict=strict),
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.number),
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stdout),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)
