"""How `nitro-signer replies` prints a reply: a line of a table, or one JSON object."""

import json
from dataclasses import dataclass
from typing import Final

import typer
from pydantic import ValidationError

from protocol.jobs import REPLY, BatchFailure, ErrorReply, GenerateReply, Reply, SignBatchReply

HEADER: Final = f"{'JOB ID':<36}  {'TYPE':<10}  {'USER ID':<12}  RESULT"


@dataclass(frozen=True, slots=True)
class ReplyLine:
    """A message of a reply queue, as it is printed."""

    job_id: str | None
    """None when it is no reply."""
    text: str
    is_failure: bool


def read_reply(body: str, *, as_json: bool) -> ReplyLine:
    """Return the line for a body: ASCII only, because who may send to the queue could write to a terminal otherwise."""
    try:
        reply = REPLY.validate_json(body)
    except ValidationError:
        return ReplyLine(None, json.dumps({"not_a_reply": body}), is_failure=True)
    is_failure = isinstance(reply, ErrorReply) or (isinstance(reply, SignBatchReply) and _failures(reply) > 0)
    if as_json:
        return ReplyLine(reply.job_id, json.dumps(reply.model_dump(mode="json")), is_failure)
    columns = f"{reply.job_id:<36}  {reply.type:<10}  {reply.userid or '-':<12}  "
    result = typer.style(_plain(_result(reply)), fg=typer.colors.RED if is_failure else typer.colors.GREEN)
    return ReplyLine(reply.job_id, _plain(columns) + result, is_failure)


def _result(reply: Reply) -> str:
    if isinstance(reply, ErrorReply):
        return f"{reply.error.code}: {reply.error.message}"
    if isinstance(reply, GenerateReply):
        made = "new key" if reply.created else "the key that exists"
        return f"{made} {reply.publickey} {reply.ethereum_address}"
    if isinstance(reply, SignBatchReply):
        failures = _failures(reply)
        part = f" in part {reply.part} of {reply.parts}" if reply.parts > 1 else ""
        return f"{len(reply.results) - failures} signatures, {failures} failures{part}"
    return f"verified {reply.signature}"


def _failures(reply: SignBatchReply) -> int:
    return sum(isinstance(result, BatchFailure) for result in reply.results)


def _plain(text: str) -> str:
    return ascii(text)[1:-1]
