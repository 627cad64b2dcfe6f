"""`nitro-signer replies`: takes replies from the reply queue and prints them."""

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from workers.cli.examples import examples
from workers.cli.interruption import EXIT_INTERRUPTED
from workers.cli.output import EXIT_REFUSED
from workers.cli.queues import about, engines_of, open_queues
from workers.cli.reply_lines import HEADER, read_reply
from workers.cli.settings import ConfigOption, load_or_fail

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

EPILOG: Final = examples(
    "nitro-signer replies --count 2 --json",
    "nitro-signer replies --job-id s-1 --job-id s-2",
    "nitro-signer replies --follow",
)

_MAX_MESSAGES: Final = 10
_MAX_WAIT_S: Final = 20
_WAIT_OF_SEVERAL_S: Final = 1
_KEPT_HIDDEN_S: Final = 60
_MAX_PUT_ASIDE: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Wish:
    """When to stop, and what to print."""

    count: int | None
    job_ids: frozenset[str]
    timeout_s: float
    as_json: bool


@dataclass(slots=True)
class _Haul:
    """What was taken so far.

    Attributes:
        missing: job ids that are still waited for.
        aside: queue and receipt handle of replies to other jobs, to be given back.
    """

    missing: set[str]
    taken: int = 0
    failures: int = 0
    aside: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_MAX_PUT_ASIDE))

    def is_enough(self, wish: _Wish) -> bool:
        """Whether all came that were wished for."""
        if wish.job_ids:
            return not self.missing
        return self.taken == wish.count


def replies(
    config: ConfigOption,
    count: Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="Stop after N replies.")] = None,
    job_id: Annotated[
        list[str] | None,
        typer.Option(
            "--job-id", metavar="ID", help="Take the replies to these jobs only, and stop after them; may be repeated."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0, help="Stop when no reply has come for S seconds.")
    ] = 20.0,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Never stop for want of replies.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each reply as it is: one JSON object a line.")] = False,
) -> None:
    """Take replies from the workers' reply queue: receive, print, delete.

    With --job-id the replies to other jobs stay on the queue; nobody else sees them while this command runs. Exit 0
    when all came and every job has succeeded; 1 when one has failed, or not all came; 2 when the queue cannot be
    reached; 130 when interrupted.
    """
    settings = load_or_fail("replies", config)
    wish = _Wish(count, frozenset(job_id or ()), math.inf if follow else timeout, as_json)
    haul = _Haul(missing=set(wish.job_ids))
    queue_urls = list(dict.fromkeys(engine.reply_queue_url for engine in engines_of(settings).values()))
    if sys.stdout.isatty() and not as_json:
        print(HEADER)

    async def take() -> None:
        async with open_queues("replies", settings.region) as sqs:
            try:
                await _take(sqs, queue_urls, wish, haul)
            finally:
                await _give_back(sqs, haul)

    try:
        asyncio.run(take())
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    wanted = len(wish.job_ids) or count
    if wanted is not None and not haul.is_enough(wish):
        came = wanted - len(haul.missing) if wish.job_ids else haul.taken
        typer.echo(f"replies: {came} of {wanted} came", err=True)
        raise typer.Exit(EXIT_REFUSED)
    if haul.failures:
        raise typer.Exit(EXIT_REFUSED)


async def _take(sqs: "SQSClient", queue_urls: Sequence[str], wish: _Wish, haul: _Haul) -> None:
    longest_s = _MAX_WAIT_S if len(queue_urls) == 1 else _WAIT_OF_SEVERAL_S
    give_up_at = time.monotonic() + wish.timeout_s
    while True:
        left_s = give_up_at - time.monotonic()
        wait_s = math.ceil(max(0.0, min(longest_s, left_s)))
        taken = haul.taken
        for queue_url in queue_urls:
            await _take_once(sqs, queue_url, wait_s, wish, haul)
            if haul.is_enough(wish):
                return
        if haul.taken > taken:
            give_up_at = time.monotonic() + wish.timeout_s
        elif left_s <= 0:
            return


async def _take_once(sqs: "SQSClient", queue_url: str, wait_s: int, wish: _Wish, haul: _Haul) -> None:
    at_most = _MAX_MESSAGES if wish.count is None else min(_MAX_MESSAGES, wish.count - haul.taken)
    with about("replies", queue_url):
        answer = await sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=at_most, WaitTimeSeconds=wait_s, VisibilityTimeout=_KEPT_HIDDEN_S
        )
    printed: list[str] = []
    for message in answer.get("Messages", []):
        line = read_reply(message.get("Body", ""), as_json=wish.as_json)
        handle = message.get("ReceiptHandle", "")
        if wish.job_ids and line.job_id not in haul.missing:
            haul.aside.append((queue_url, handle))
            continue
        typer.echo(line.text)  # takes the colours out where standard output is no terminal
        printed.append(handle)
        haul.missing.discard(line.job_id or "")
        haul.taken += 1
        haul.failures += line.is_failure
    sys.stdout.flush()  # who reads a pipe has them before they are gone from the queue
    if printed:
        await sqs.delete_message_batch(
            QueueUrl=queue_url,
            Entries=[{"Id": str(place), "ReceiptHandle": handle} for place, handle in enumerate(printed)],
        )


async def _give_back(sqs: "SQSClient", haul: _Haul) -> None:
    """Let others see the replies that were put aside; those that it fails for are seen after a minute."""
    for queue_url in {queue_url for queue_url, _ in haul.aside}:
        handles = [handle for url, handle in haul.aside if url == queue_url]
        for start in range(0, len(handles), _MAX_MESSAGES):
            await sqs.change_message_visibility_batch(
                QueueUrl=queue_url,
                Entries=[
                    {"Id": str(place), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                    for place, handle in enumerate(handles[start : start + _MAX_MESSAGES])
                ],
            )
