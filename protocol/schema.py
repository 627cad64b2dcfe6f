"""The JSON Schemas of jobs and replies, made from the models. `docs/schema/` holds them; a test compares."""

from typing import Any, Final

from protocol.jobs import JOB, REPLY

SCHEMA_NAMES: Final = ("job", "reply")


def make_schema(name: str) -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) of `job` or `reply`.

    Raises:
        KeyError: another name.
    """
    schema = {"job": _job, "reply": _reply}[name]()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"nitro-signer {name}", **schema}


def _job() -> dict[str, Any]:
    schema = JOB.json_schema()
    for definition in schema["$defs"].values():
        if "job_id" in definition.get("required", []):
            definition["required"].remove("job_id")  # what a job leaves out is the SQS message id
    return schema


def _reply() -> dict[str, Any]:
    return REPLY.json_schema(mode="serialization")
