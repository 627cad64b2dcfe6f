"""The base of every model that is made from foreign data: frozen, strict, no unknown fields, no input in errors."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

USERID_PATTERN = r"^[A-Za-z0-9._:@+=/-]{1,128}$"

UserId = Annotated[str, StringConstraints(pattern=USERID_PATTERN)]
"""A user id. It shows in CloudTrail through the encryption context: use an opaque one."""


class StrictModel(BaseModel):
    """Checked once, when it is made; a value from then on."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


def describe_validation_error(error: ValidationError) -> str:
    """Return one line that names each wrong field and says what is allowed, without what was given."""
    parts: list[str] = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(step) for step in problem["loc"])
        kind = problem["type"]
        if kind == "extra_forbidden":
            text = "unknown field"
        elif kind == "missing":
            text = "field is missing"
        else:
            text = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {text}" if place else text)
    return "; ".join(parts)
