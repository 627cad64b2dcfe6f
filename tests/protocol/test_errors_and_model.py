"""The closed set of codes is complete, and the lines that name a wrong field are short and printable."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from protocol.clock import system_clock
from protocol.errors import ErrorCode, LocalProtocolError, ProtocolError, RemoteProtocolError, SignerError
from protocol.model import StrictModel, describe_validation_error
from protocol.version import SOFTWARE, VERSION


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_meaning_and_a_flag(code: ErrorCode) -> None:
    """A code without a sentence or a flag would be found by a client first."""
    assert re.fullmatch(r"[a-zA-Z].{5,100}", code.meaning)
    assert isinstance(code.retryable, bool)
    assert SignerError(code).detail == code.meaning
    assert str(SignerError(code, "more")) == f"{code.value}: more"


def test_the_two_blames_are_told_apart() -> None:
    """Who catches the peer's errors does not catch our own bugs."""
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
    assert issubclass(LocalProtocolError, ProtocolError)
    assert str(RemoteProtocolError(ErrorCode.BAD_FRAME, "why")) == "bad_frame: why"


class Small(StrictModel):
    """A model with one field."""

    name: str


def problem(value: object) -> str:
    """Return the line for a wrong value."""
    with pytest.raises(ValidationError) as error:
        Small.model_validate(value)
    return describe_validation_error(error.value)


def test_each_wrong_field_is_named() -> None:
    """Missing, unknown and wrong fields each have their words."""
    assert problem({}) == "name: field is missing"
    assert problem({"name": "x", "nmae": 1}) == "nmae: unknown field"
    assert problem({"name": 1}) == "name: Input should be a valid string"


def test_a_flood_of_problems_is_only_counted() -> None:
    """A mebibyte holds 100,000 unknown fields; to list them all would take a second and 100 MB."""
    assert problem({"name": "x", **{f"f{i}": 1 for i in range(1_001)}}) == "1001 missing, wrong or unknown fields"


def test_what_was_given_is_never_shown() -> None:
    """A line goes into logs and replies; the value may be a secret."""
    assert "hunter2" not in problem({"name": ["hunter2"]})
    assert "hunter2" not in problem("hunter2")


def test_a_line_is_bounded_and_printable() -> None:
    """Field names are the sender's choice: neither their length nor their number nor their characters get through."""
    line = problem({"x" * 100_000: 1, "a\nb": 1, "name": "n"})
    assert "\n" not in line
    assert "x" * 65 not in line
    assert len(problem({f"{number:064}": 1 for number in range(10_000)})) < 1000


def test_one_version() -> None:
    """The version that `hello` tells is the package's."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert f"{project['name']}/{VERSION}" == SOFTWARE


def test_the_system_clock_counts_from_1970() -> None:
    """Seconds, not milliseconds or ticks."""
    assert 1_700_000_000 < system_clock() < 10_000_000_000
