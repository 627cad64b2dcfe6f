"""The published schemas are those of the code, and say what the parser says."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from protocol.jobs import JobRefusedError, parse_job
from protocol.schema import SCHEMA_NAMES, make_schema

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "schema"


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_published_schemas_are_current(name: str) -> None:
    """What is checked in is what `nitro-signer schema NAME` prints now."""
    published = json.loads((PUBLISHED / f"{name}.json").read_text())
    assert make_schema(name) == published, f"run: nitro-signer schema {name} > docs/schema/{name}.json"


JOBS: list[tuple[dict[str, Any], bool]] = [
    ({"type": "generate", "userid": "u"}, True),
    ({"type": "generate", "userid": "u", "job_id": "g-1"}, True),
    ({"type": "generate"}, False),
    ({"type": "generate", "userid": "a b"}, False),
    ({"type": "sign", "userid": "u", "message": "m", "digest": "keccak256", "format": "recoverable"}, True),
    ({"type": "sign", "userid": "u", "message": "m", "digest": "md5"}, False),
    ({"type": "sign", "userid": "u", "message": "m", "more": 1}, False),
    ({"type": "sign", "userid": "u", "message": "m", "authorization": "x"}, False),
    ({"type": "sign", "userid": "u", "message": "m", "job_id": "has space"}, False),
    ({"type": "transfer", "userid": "u"}, False),
]


@pytest.mark.parametrize(("job", "is_valid"), JOBS)
def test_schema_and_parser_agree(job: dict[str, Any], is_valid: bool) -> None:  # noqa: FBT001 - a parametrised value
    """A job is valid by the schema when the parser takes it, and invalid when it refuses."""
    validator = jsonschema.Draft202012Validator(make_schema("job"))
    try:
        parse_job(json.dumps(job), "message-id")
    except JobRefusedError:
        parsed = False
    else:
        parsed = True
    assert (validator.is_valid(job), parsed) == (is_valid, is_valid)
