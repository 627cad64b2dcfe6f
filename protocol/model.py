"""The base of every model that is made from foreign data: frozen, strict, no unknown fields, no input in errors."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

USERID_PATTERN = r"^[A-Za-z0-9._:@+=/-]{1,128}$"

_MAX_PROBLEMS = 8
_MAX_NAME = 64
"""What one error line tells of at most. It goes into replies, and one reply must fit into a batch of ten."""

_MAX_LISTED = 1000
"""Beyond it problems are only counted: to list 100,000 unknown fields would take a second and 100 MB."""

_QUOTE = "'"

UserId = Annotated[str, StringConstraints(pattern=USERID_PATTERN)]
"""A user id. It shows in CloudTrail through the encryption context: use an opaque one."""


class StrictModel(BaseModel):
    """Checked once, when it is made; a value from then on."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


def describe_validation_error(error: ValidationError) -> str:
    """Return one line that names each wrong field and says what is allowed, without what was given."""
    if error.error_count() > _MAX_LISTED:
        return f"{error.error_count()} missing, wrong or unknown fields"
    parts: list[str] = []
    problems = error.errors(include_url=False, include_input=False)
    for problem in problems[:_MAX_PROBLEMS]:
        place = ".".join(_shown(step) for step in problem["loc"])
        context = problem.get("ctx", {})
        match problem["type"]:
            case "extra_forbidden":
                text = "unknown field"
            case "missing":
                text = "field is missing"
            case "union_tag_not_found":
                text = f"{context['discriminator'].strip(_QUOTE)}: field is missing"
            case "union_tag_invalid":
                text = f"{context['discriminator'].strip(_QUOTE)}: allowed are {context['expected_tags']}"
            case _:
                text = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {text}" if place else text)
    if len(problems) > _MAX_PROBLEMS:
        parts.append(f"and {len(problems) - _MAX_PROBLEMS} more")
    return "; ".join(parts)


def _shown(step: int | str) -> str:
    """Return a step to a field as printable text of bounded length: an unknown field has the name its sender chose."""
    name = str(step)
    if len(name) > _MAX_NAME:
        name = f"{name[:_MAX_NAME]}..."
    return name if name.isprintable() else ascii(name)
