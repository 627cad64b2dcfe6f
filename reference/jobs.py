"""Jobs and replies, from their published JSON Schemas."""

from collections.abc import Iterator
from typing import Any, Final

from protocol.schema import make_schema
from reference.markdown import code, table

_INTRODUCTION: Final = """\
# Jobs and replies

A job is a JSON object in the body of an SQS message, a reply the same on the reply queue. The tables are made from the
JSON Schemas, which validators can use as they are: [job.json](../schema/job.json), [reply.json](../schema/reply.json).

A job with an unknown field, a key that stands twice, or a lone surrogate is refused: two readers could take it for two
different jobs. `authorization` is reserved; anything but null is refused.

"""

_NAMES: Final = {"string": "text", "integer": "number", "boolean": "true or false", "null": "null"}

_HEADINGS: Final = {
    "job": (
        ("GenerateJob", "Generate a key"),
        ("SignJob", "Sign a message"),
        ("SignBatchJob", "Sign in bulk"),
        ("SignBatchItem", "An item of a bulk job"),
    ),
    "reply": (
        ("GenerateReply", "Reply: a key"),
        ("SignReply", "Reply: a signature"),
        ("SignBatchReply", "Reply: results of a bulk job"),
        ("BatchSignature", "Result of an item: a signature"),
        ("BatchFailure", "Result of an item: an error"),
        ("ErrorReply", "Reply: an error"),
        ("ReplyError", "What an error says"),
    ),
}


def jobs_page() -> str:
    """Return the page."""
    return _INTRODUCTION + "\n".join(part for name in _HEADINGS for part in _parts(name))


def _parts(name: str) -> Iterator[str]:
    definitions = make_schema(name)["$defs"]
    for model, heading in _HEADINGS[name]:
        schema = definitions[model]
        required = schema.get("required", ())
        rows = (
            (
                code(field),
                _kind(value, definitions),
                "required" if field in required and "const" not in value else _default(value),
                value.get("description") or _referred(value, definitions).get("description", ""),
            )
            for field, value in schema["properties"].items()
        )
        yield f"## {heading}\n\n{schema['description']}\n\n{table(('field', 'value', 'default', 'meaning'), rows)}"


def _referred(value: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definitions.get(value.get("$ref", "").rpartition("/")[2], {})
    return found


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return code(str(default)) if default is not None and "const" not in value else ""


def _kind(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return what a field may hold."""
    value = {**value, **_referred(value, definitions)}
    if "const" in value:
        return code(str(value["const"]).lower() if isinstance(value["const"], bool) else str(value["const"]))
    if "enum" in value:
        return " · ".join(code(each) for each in value["enum"]) if len(value["enum"]) < 8 else "[a code](errors.md)"  # noqa: PLR2004 - more do not fit into a cell
    if "anyOf" in value:
        return " or ".join(_kind(each, definitions) for each in value["anyOf"])
    if value.get("type") == "array":
        return "list"
    if value.get("type") == "object":
        return "object"
    limit = f", at most {value['maxLength']:,} characters" if "maxLength" in value else ""
    return _NAMES[value["type"]] + limit + _pattern(value)


def _pattern(value: dict[str, Any]) -> str:
    return f", {code(value['pattern'])}" if "pattern" in value else ""
