"""`nitro-signer status`: how many jobs wait, are at work and have failed, and how workers and enclaves are."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from config.worker import WorkerSettings
from protocol.address import Address
from protocol.channel import open_channel
from protocol.errors import SignerError
from protocol.messages import Status, StatusResult
from protocol.version import SOFTWARE
from workers.cli.examples import examples
from workers.cli.output import EXIT_REFUSED, print_json
from workers.cli.queues import about, engines_of, open_queues
from workers.cli.settings import ConfigOption, load_or_fail
from workers.cli.table import print_table
from workers.cli.worker_rows import Row, worker_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from types_aiobotocore_sqs import SQSClient

EPILOG: Final = examples(
    "nitro-signer status --config worker.toml", "nitro-signer status --no-workers --no-enclaves --json"
)

_TIMEOUT_S: Final = 5.0
_MINUTE_S: Final = 60

_COUNTS: Final = {
    "waiting": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
    "oldest_s": "ApproximateAgeOfOldestMessage",
}
"""Our names, and those of SQS. The last is told by some servers only; on AWS it is a metric of CloudWatch."""


def status(
    config: ConfigOption,
    *,
    workers: Annotated[
        bool, typer.Option(help="Ask the workers on their health_port; they answer on their own instance only.")
    ] = True,
    enclaves: Annotated[bool, typer.Option(help="Ask the enclaves; they answer on their own instance only.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show queues, dead letters, workers and enclaves. The numbers of SQS are approximate by its own word.

    Exit 0 when all is well; 1 when a dead-letter queue is not empty, or a worker or enclave is not ready; 2 when the
    queues cannot be reached.
    """
    settings = load_or_fail("status", config)
    queue_rows, worker_found, enclave_rows = asyncio.run(_ask(settings, workers=workers, enclaves=enclaves))
    needs_attention = any(row["is_dead_letter_queue"] and row["waiting"] for row in queue_rows) or any(
        row["ready"] is False for row in (*worker_found, *enclave_rows)
    )
    if as_json:
        rows = {"queues": queue_rows, "workers": worker_found, "enclaves": enclave_rows}
        print_json({**rows, "needs_attention": needs_attention})
    else:
        print_table(
            ("QUEUE", "WAITING", "IN FLIGHT", "DELAYED", "OLDEST"),
            [
                (str(row["queue"]), *(_shown(row[name]) for name in ("waiting", "in_flight", "delayed")), _age(row))
                for row in queue_rows
            ],
        )
        if worker_found:
            print()
            print_table(
                ("WORKER", "PROCESS", "READY", "IN FLIGHT", "LAST POLL", "SAYS"),
                [
                    (*(_shown(row[name]) for name in ("role", "process", "ready", "in_flight")), _poll(row), _says(row))
                    for row in worker_found
                ],
            )
        if enclave_rows:
            print()
            print_table(
                ("ENCLAVE", "ROLE", "READY", "IN FLIGHT", "SAYS"),
                [
                    tuple(_shown(row[name]) for name in ("address", "role", "ready", "in_flight", "reason"))
                    for row in enclave_rows
                ],
            )
    if needs_attention:
        raise typer.Exit(EXIT_REFUSED)


async def _ask(settings: WorkerSettings, *, workers: bool, enclaves: bool) -> tuple[list[Row], list[Row], list[Row]]:
    engines = engines_of(settings).values()
    jobs = [engine.queue_url for engine in engines]
    replies = list(dict.fromkeys(engine.reply_queue_url for engine in engines))
    dead = [engine.dead_letter_queue_url for engine in engines if engine.dead_letter_queue_url is not None]
    async with open_queues("status", settings.region) as sqs:
        queue_rows = [await _queue(sqs, url, is_dead_letter_queue=url in dead) for url in (*jobs, *replies, *dead)]
    worker_found = await worker_rows(settings) if workers else []
    if not enclaves:
        return queue_rows, worker_found, []
    roles = [role for role in (settings.generate, settings.sign) if role is not None]
    return queue_rows, worker_found, [row for role in roles for base in role.enclaves for row in await _enclave(base)]


async def _queue(sqs: "SQSClient", queue_url: str, *, is_dead_letter_queue: bool) -> Row:
    with about("status", queue_url):
        answer = await sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])
    attributes: Mapping[str, str] = {str(name): value for name, value in answer["Attributes"].items()}
    counts = {ours: int(attributes[theirs]) if theirs in attributes else None for ours, theirs in _COUNTS.items()}
    return {"queue": queue_url.rsplit("/", 1)[-1], "is_dead_letter_queue": is_dead_letter_queue, **counts}


async def _enclave(base: Address) -> list[Row]:
    """Ask each server process of an enclave; how many there are, the first one tells."""
    rows: list[Row] = []
    processes = 1
    while len(rows) < processes:
        address = base.sibling(len(rows))
        row: Row = {"address": str(address), "role": None, "ready": False, "in_flight": None, "reason": None}
        try:
            async with open_channel(address, software=SOFTWARE, timeout_s=_TIMEOUT_S) as channel:
                state = await channel.call(Status(), timeout_s=_TIMEOUT_S)
                processes = channel.hello.enclave.processes
                row["role"] = channel.hello.enclave.role
        except SignerError as error:
            row["reason"] = error.detail
        else:
            if isinstance(state, StatusResult):
                row |= {"ready": state.ready, "in_flight": state.in_flight, "reason": state.reason}
        rows.append(row)
    return rows


def _shown(value: str | float | bool | None) -> str:  # noqa: FBT001 - a value to print, not a switch
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _says(row: Row) -> str:
    return _shown(row["reason"])


def _poll(row: Row) -> str:
    seconds = row["last_poll_s"]
    return f"{float(seconds):.0f} s ago" if seconds is not None else "-"


def _age(row: Row) -> str:
    seconds = row["oldest_s"]
    return f"{int(seconds) // _MINUTE_S} min" if seconds is not None else "-"
