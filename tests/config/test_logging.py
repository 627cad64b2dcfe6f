"""Log lines: one JSON object each, listed fields only, nothing that could be a secret."""

import io
import json
import logging
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from config.fields import ENCLAVE_FIELDS, FIELDS, MAX_TEXT_CHARACTERS
from config.logging import FieldFilter, FieldNotListedError, LogLevel, configure_logging
from protocol.address import parse_address
from protocol.errors import ErrorCode, RemoteProtocolError, SignerError

SECRET = "c0ffee" * 5


@pytest.fixture
def stream() -> io.StringIO:
    """Set logging up as a program does, and return what it writes to."""
    stream = io.StringIO()
    configure_logging("worker-sign", stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the lines as objects."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_role_and_event(stream: io.StringIO) -> None:
    """Every line says when, how bad, who and what, and then its own fields."""
    structlog.get_logger().warning("job_failed", job_id="j-1", count=3, created=True, code=ErrorCode.FROZEN)
    (line,) = lines(stream)
    assert list(line)[:4] == ["timestamp", "level", "role", "event"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["role"], line["event"]) == ("warning", "worker-sign", "job_failed")
    assert (line["job_id"], line["count"], line["created"], line["code"]) == ("j-1", 3, True, "frozen")


@pytest.mark.parametrize("fields", [{"body": SECRET}, {"receipt_handle": SECRET}, {"userid": SECRET.encode()}])
def test_what_is_not_listed_is_named_and_not_written(stream: io.StringIO, fields: dict[str, object]) -> None:
    """A field that is not on the list, or bytes in one that is, leave their name in the line and nothing else."""
    structlog.get_logger().info("job_failed", **fields)
    assert SECRET not in stream.getvalue()
    assert lines(stream)[0]["dropped_fields"] == next(iter(fields))


@pytest.mark.parametrize("value", [{"a": 1}, [SECRET], object(), 2**63, float("nan"), SignerError(ErrorCode.INTERNAL)])
def test_only_bounded_scalars_are_values(stream: io.StringIO, value: object) -> None:
    """Containers, objects and numbers that JSON readers would bend are left out."""
    structlog.get_logger().info("job_failed", reason=value)
    assert lines(stream)[0]["dropped_fields"] == "reason"


def test_tests_meet_an_exception_instead(stream: io.StringIO) -> None:
    """A strict set-up raises on the first field that is not listed."""
    configure_logging("test", stream=stream, strict=True)
    with pytest.raises(FieldNotListedError, match="job_failed: body, key"):
        structlog.get_logger().info("job_failed", key="x", body="y")


def test_an_event_is_a_fixed_name(stream: io.StringIO) -> None:
    """Text with data in it, which could carry anything, is no event name."""
    structlog.get_logger().info(f"opened key {SECRET}")
    assert lines(stream)[0].get("event") is None
    assert lines(stream)[0]["dropped_fields"] == "event"


def test_text_is_cut(stream: io.StringIO) -> None:
    """No value makes a line long."""
    structlog.get_logger().info("job_failed", reason="x" * 10_000)
    assert len(lines(stream)[0]["reason"]) == MAX_TEXT_CHARACTERS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SignerError(ErrorCode.KMS_DENIED, SECRET), "kms_denied"),
        (RemoteProtocolError(ErrorCode.BAD_FRAME, SECRET), "bad_frame"),
        (ValueError(SECRET), None),
    ],
)
def test_an_exception_shows_class_and_code_but_no_text(stream: io.StringIO, error: Exception, code: str | None) -> None:
    """Texts of exceptions quote what they failed on; only class and closed code are written."""
    structlog.get_logger().error("job_failed", exc_info=error)
    (line,) = lines(stream)
    assert SECRET not in stream.getvalue()
    assert (line["error_type"], line.get("code")) == (type(error).__name__, code)


@pytest.mark.parametrize("how", ["true", "tuple"])
def test_the_own_line_that_met_an_exception_is_told(stream: io.StringIO, how: str) -> None:
    """File and line of this project's innermost frame are written: enough to find the place, and no data."""
    try:
        parse_address(SECRET)
    except ValueError as error:
        info: Any = True if how == "true" else (type(error), error, error.__traceback__)
        structlog.get_logger().error("job_failed", exc_info=info)
    (line,) = lines(stream)
    assert line["error_place"].startswith("protocol/address.py:")
    assert SECRET not in stream.getvalue()


def test_the_innermost_own_line_counts_not_that_of_a_library(stream: io.StringIO) -> None:
    """Where a library raised, our line that called it is told."""
    try:
        json.loads("{")
    except ValueError as error:
        structlog.get_logger().error("job_failed", exc_info=error)
    assert lines(stream)[0]["error_place"].startswith("tests/config/test_logging.py:")


def test_a_group_of_exceptions_shows_its_first(stream: io.StringIO) -> None:
    """What a TaskGroup wraps is unwrapped: the group's own class says nothing."""
    group = ExceptionGroup(SECRET, [ExceptionGroup("inner", [SignerError(ErrorCode.KMS_DENIED)]), ValueError(SECRET)])
    structlog.get_logger().error("job_failed", exc_info=group)
    (line,) = lines(stream)
    assert (line["error_type"], line["code"]) == ("SignerError", "kms_denied")


def test_libraries_report_without_their_text(stream: io.StringIO) -> None:
    """A library's warning names the library and the exception class; its text stays out, its debug lines too."""
    logger = logging.getLogger("botocore.auth")
    logger.debug("signing with %s", SECRET)
    logger.info("signing with %s", SECRET)
    logger.warning("cannot sign with %s", SECRET)
    logger.error("cannot sign with %s", SECRET, exc_info=OSError(SECRET))
    warning, error = lines(stream)
    assert SECRET not in stream.getvalue()
    assert (warning["event"], warning["level"], warning["library"]) == ("library_report", "warning", "botocore.auth")
    assert (error["level"], error["error_type"]) == ("error", "OSError")


def test_the_level_is_a_floor() -> None:
    """Less severe events are not written."""
    stream = io.StringIO()
    configure_logging("proxy", stream=stream, level=LogLevel.WARNING)
    structlog.get_logger().info("drained")
    structlog.get_logger().warning("drained")
    assert [line["level"] for line in lines(stream)] == ["warning"]


def test_every_field_has_a_meaning_in_one_line() -> None:
    """The list is the published table."""
    assert all(meaning and "\n" not in meaning and len(meaning) < 120 for meaning in FIELDS.values())
    assert FIELDS.keys() >= ENCLAVE_FIELDS


@given(st.dictionaries(st.text(max_size=20), st.none() | st.booleans() | st.integers() | st.floats() | st.text()))
def test_any_event_becomes_one_line_of_strict_json(fields: dict[str, Any]) -> None:
    """Whatever is logged, a line is one line, and JSON that every reader takes."""
    line = FieldFilter(strict=False)(None, "info", {**fields, "event": "e", "reason": "\n\u2028\ud800"})
    text = structlog.processors.JSONRenderer()(None, "info", dict(line))
    assert isinstance(text, str)
    assert len(text.splitlines()) == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse).keys() <= FIELDS.keys()
