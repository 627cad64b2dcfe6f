"""`nitro-signer replies`: takes replies from the reply queue and prints them."""

import asyncio
import json
import math
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import ValidationError

from protocol.jobs import REPLY, ErrorReply, GenerateReply, Reply
from workers.cli.output import EXIT_REFUSED
from workers.cli.queues import open_queues
from workers.cli.settings import ConfigOption, load_or_fail

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

_MAX_MESSAGES: Final = 10
_MAX_WAIT_S: Final = 20


def replies(
    config: ConfigOption,
    count: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after N replies.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0, help="Stop when no reply has come for S seconds.")
    ] = 20.0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print each reply as it is: one JSON object a line.")] = False,
) -> None:
    """Take replies from the reply queue: receive, print, delete. Exit code 1 when fewer than N came."""
    settings = load_or_fail("replies", config)
    roles = [role for role in (settings.generate, settings.sign) if role is not None]
    queue_urls = list(dict.fromkeys(role.engine.reply_queue_url for role in roles))

    async def take() -> int:
        async with open_queues("replies", settings.region) as sqs:
            return await _take(sqs, queue_urls, count=count, timeout_s=timeout, as_json=as_json)

    taken = asyncio.run(take())
    if count is not None and taken < count:
        typer.echo(f"replies: {taken} of {count} came", err=True)
        raise typer.Exit(EXIT_REFUSED)


async def _take(sqs: "SQSClient", queue_urls: list[str], *, count: int | None, timeout_s: float, as_json: bool) -> int:
    taken = 0
    give_up_at = time.monotonic() + timeout_s
    while count is None or taken < count:
        left_s = give_up_at - time.monotonic()
        got = 0
        for queue_url in queue_urls:
            wanted = _MAX_MESSAGES if count is None else min(_MAX_MESSAGES, count - taken - got)
            if wanted:
                wait_s = max(0, min(_MAX_WAIT_S if len(queue_urls) == 1 else 1, math.ceil(left_s)))
                got += await _take_once(sqs, queue_url, at_most=wanted, wait_s=wait_s, as_json=as_json)
        taken += got
        if got:
            give_up_at = time.monotonic() + timeout_s
        elif left_s <= 0:
            break
    return taken


async def _take_once(sqs: "SQSClient", queue_url: str, *, at_most: int, wait_s: int, as_json: bool) -> int:
    answer = await sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=at_most, WaitTimeSeconds=wait_s)
    messages = answer.get("Messages", [])
    for message in messages:
        print(_line(message.get("Body", ""), as_json=as_json))
    sys.stdout.flush()  # who reads a pipe has them before they are gone from the queue
    for message in messages:
        await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message.get("ReceiptHandle", ""))
    return len(messages)


def _line(body: str, *, as_json: bool) -> str:
    """Return what is printed: ASCII only, because whoever may send to the queue could write to a terminal otherwise."""
    try:
        reply = REPLY.validate_json(body)
    except ValidationError:
        return json.dumps({"not_a_reply": body})
    return json.dumps(reply.model_dump(mode="json")) if as_json else ascii(_for_people(reply))[1:-1]


def _for_people(reply: Reply) -> str:
    if isinstance(reply, ErrorReply):
        return f"{reply.job_id}  {reply.type}  {reply.userid}  {reply.error.code}: {reply.error.message}"
    if isinstance(reply, GenerateReply):
        made = "new key" if reply.created else "the key that exists"
        return f"{reply.job_id}  generate  {reply.userid}  {made} {reply.publickey} {reply.ethereum_address}"
    return f"{reply.job_id}  sign  {reply.userid}  verified {reply.signature}"
