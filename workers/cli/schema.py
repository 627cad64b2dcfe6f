"""`nitro-signer schema`: the published JSON Schemas of jobs and replies."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from protocol.schema import make_schema


class SchemaName(StrEnum):
    """Which schema."""

    JOB = "job"
    REPLY = "reply"


def schema(
    name: Annotated[SchemaName, typer.Argument(metavar="job|reply", help="What goes on a queue, or what comes back.")],
) -> None:
    """Print the JSON Schema (2020-12) of jobs or of replies. Always exit code 0."""
    print(json.dumps(make_schema(name.value), indent=2))
