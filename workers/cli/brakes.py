"""`nitro-signer brakes`: pause signing for everybody, freeze single users, see what is held.

For operators, with their own credentials: they need PutItem, DeleteItem and Scan on the brakes' table, which no worker
has. A worker sees a change within seconds (`brakes.pause_check_s`, `brakes.freeze_cache_s`).
"""

import asyncio
import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from protocol.clock import system_clock
from protocol.model import USERID_PATTERN
from workers.cli.aws_errors import aws_or_fail
from workers.cli.examples import examples
from workers.cli.output import fail, print_json
from workers.cli.settings import ConfigOption, load_or_fail
from workers.cli.table import print_table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from types_aiobotocore_dynamodb import DynamoDBClient

_COMMAND: Final = "brakes"
_TRIES: Final = 3
_TIMEOUT_S: Final = 10.0

app = typer.Typer(no_args_is_help=True, help="Pause signing, freeze users, and show what is held.")


def _known_form(userid: str) -> str:
    if re.fullmatch(USERID_PATTERN, userid) is None:
        raise typer.BadParameter("1 to 128 of A-Z a-z 0-9 . _ : @ + = / -")
    return userid


UserArgument = Annotated[str, typer.Argument(metavar="USERID", callback=_known_form)]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for whoever asks `show`. No secrets.")]


@app.callback()
def brakes() -> None:
    """Pause signing for everybody, freeze single users, and show what is held."""


@app.command(epilog=examples("nitro-signer brakes pause --reason 'incident 12' --config worker.toml"))
def pause(config: ConfigOption, reason: ReasonOption = "", *, as_json: AsJsonOption = False) -> None:
    """Stop all signing; jobs stay on the queue. Exit 0, or 2 when the table cannot be reached."""
    from workers.brakes import PAUSE_ITEM

    _hold(config, PAUSE_ITEM, reason)
    _tell({"paused": True}, "signing is paused", as_json=as_json)


@app.command(epilog=examples("nitro-signer brakes resume --config worker.toml"))
def resume(config: ConfigOption, *, as_json: AsJsonOption = False) -> None:
    """Sign again. Exit 0, or 2 when the table cannot be reached."""
    from workers.brakes import PAUSE_ITEM

    _release(config, PAUSE_ITEM)
    _tell({"paused": False}, "signing goes on", as_json=as_json)


@app.command(epilog=examples("nitro-signer brakes freeze u001 --reason 'asked by the customer' --config worker.toml"))
def freeze(
    userid: UserArgument, config: ConfigOption, reason: ReasonOption = "", *, as_json: AsJsonOption = False
) -> None:
    """Have sign jobs of one user answered with the error `frozen`. Exit 0, or 2 when the table cannot be reached."""
    _hold(config, userid, reason)
    _tell({"userid": userid, "frozen": True}, f"{userid} is frozen", as_json=as_json)


@app.command(epilog=examples("nitro-signer brakes unfreeze u001 --config worker.toml"))
def unfreeze(userid: UserArgument, config: ConfigOption, *, as_json: AsJsonOption = False) -> None:
    """Sign for a user again. Exit 0, or 2 when the table cannot be reached."""
    _release(config, userid)
    _tell({"userid": userid, "frozen": False}, f"{userid} is not frozen", as_json=as_json)


@app.command(epilog=examples("nitro-signer brakes show --config worker.toml"))
def show(config: ConfigOption, *, as_json: AsJsonOption = False) -> None:
    """Show whether signing is paused, and who is frozen since when and why. Exit 0, or 2 when that cannot be read."""
    from workers.brakes import BRAKE_KEY, PAUSE_ITEM

    async def work(client: "DynamoDBClient", table: str) -> None:
        held: dict[str, dict[str, str]] = {}
        async for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
            for item in page["Items"]:
                fields = {name: value["S"] for name, value in item.items() if "S" in value}
                held[fields.pop(BRAKE_KEY)] = fields
        paused = held.pop(PAUSE_ITEM, None)
        frozen = dict(sorted(held.items()))
        if as_json:
            print_json({"paused": paused, "frozen": frozen})
            return
        rows = [("everybody", "paused", paused)] if paused else []
        rows += [(userid, "frozen", fields) for userid, fields in frozen.items()]
        if rows:
            print_table(
                ("WHO", "HOW", "SINCE", "REASON"),
                [(who, how, fields.get("since", "-"), fields.get("reason", "-")) for who, how, fields in rows],
            )
        else:
            print("nothing is held")

    _run(config, work)


def _tell(facts: "Mapping[str, str | bool]", text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print(text)


def _hold(config: Path, item: str, reason: str) -> None:
    from workers.brakes import BRAKE_KEY

    since = datetime.fromtimestamp(int(system_clock()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {BRAKE_KEY: item, "since": since, "reason": reason}

    async def work(client: "DynamoDBClient", table: str) -> None:
        await client.put_item(TableName=table, Item={name: {"S": value} for name, value in fields.items() if value})

    _run(config, work)


def _release(config: Path, item: str) -> None:
    from workers.brakes import BRAKE_KEY

    async def work(client: "DynamoDBClient", table: str) -> None:
        await client.delete_item(TableName=table, Key={BRAKE_KEY: {"S": item}})

    _run(config, work)


def _run(config: Path, work: "Callable[[DynamoDBClient, str], Awaitable[None]]") -> None:
    settings = load_or_fail(_COMMAND, config)
    if settings.brakes.table is None:
        fail(_COMMAND, f"{config}: brakes.table: not set, so nothing here can be held")
    asyncio.run(_with_client(settings.region, settings.brakes.table, work))


async def _with_client(region: str, table: str, work: "Callable[[DynamoDBClient, str], Awaitable[None]]") -> None:
    async with _open_dynamodb(region) as client:
        await work(client, table)


@contextlib.asynccontextmanager
async def _open_dynamodb(region: str) -> "AsyncGenerator[DynamoDBClient, None]":
    """Open a client; what DynamoDB or the way to it refuses becomes one line and exit code 2."""
    from aiobotocore.session import get_session

    from workers.aws import dynamodb_client

    session = get_session()
    session.set_config_variable("region", region)
    with aws_or_fail(_COMMAND):
        async with dynamodb_client(session, connections=1, read_timeout_s=_TIMEOUT_S, tries=_TRIES) as client:
            yield client
