"""`nitro-signer dlq`: looks into the dead-letter queues, and sends jobs back."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from config.worker import WorkerRole, WorkerSettings
from protocol.clock import system_clock
from workers.cli.examples import examples
from workers.cli.output import EXIT_REFUSED, fail, print_facts, print_json
from workers.cli.queues import about, engines_of, open_queues
from workers.cli.settings import ConfigOption, load_or_fail
from workers.cli.table import print_table

if TYPE_CHECKING:
    from workers.queue.dead_letters import DeadLetter
    from workers.queue.sqs import SqsCalls

app = typer.Typer(no_args_is_help=True, help="Jobs that failed for good: see them, send them back.")

_MS: Final = 1000
_MINUTE_S: Final = 60

RoleOption = Annotated[
    WorkerRole | None, typer.Option("--role", help="Only the dead-letter queue of this kind of worker.")
]
AtMostOption = Annotated[int, typer.Option("--at-most", metavar="N", min=1, help="Look at no more letters than this.")]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a letter.")]


@dataclass(frozen=True, slots=True)
class _Box:
    """A dead-letter queue that was looked into."""

    role: WorkerRole
    queue_url: str
    target_url: str
    calls: "SqsCalls"
    letters: "list[DeadLetter]"


@app.callback()
def dlq() -> None:
    """Jobs that failed for good: see them, send them back. While a command looks, nobody else sees the letters."""


@app.command("list", epilog=examples("nitro-signer dlq list --role sign --config worker.toml"))
def list_letters(
    config: ConfigOption, *, role: RoleOption = None, at_most: AtMostOption = 1_000, as_json: AsJsonOption = False
) -> None:
    """List the dead letters: job id, user id, why it failed, how often it was tried, and since when it is here."""

    async def run() -> None:
        async with _looking(load_or_fail("dlq", config), role, at_most) as boxes:
            letters = [letter for box in boxes for letter in box.letters]
            if as_json:
                for letter in letters:
                    print_json(_facts(letter))
            elif not letters:
                print("no dead letters")
            else:
                print_table(
                    ("JOB ID", "TYPE", "USER ID", "ERROR", "TRIES", "SINCE"),
                    [
                        (
                            letter.job_id,
                            letter.job_type,
                            letter.userid or "-",
                            letter.error_code or "-",
                            letter.receive_count or "-",
                            _age(letter),
                        )
                        for letter in letters
                    ],
                )

    asyncio.run(run())


@app.command(epilog=examples("nitro-signer dlq show s-17 --config worker.toml"))
def show(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="As `dlq list` shows it.")],
    config: ConfigOption,
    *,
    role: RoleOption = None,
    at_most: AtMostOption = 10_000,
    as_json: AsJsonOption = False,
) -> None:
    """Show the letters of a job whole, body included. Exit 1 when there is none."""

    async def run() -> int:
        async with _looking(load_or_fail("dlq", config), role, at_most) as boxes:
            letters = [letter for box in boxes for letter in box.letters if letter.job_id == job_id]
            for letter in letters:
                facts = {**_facts(letter), "body": letter.body}
                if as_json:
                    print_json(facts)
                else:
                    print_facts({name: "-" if value is None else str(value) for name, value in facts.items()})
            return len(letters)

    if not asyncio.run(run()):
        typer.echo(f"dlq: no letter of the job {job_id}", err=True)
        raise typer.Exit(EXIT_REFUSED)


@app.command(
    epilog=examples(
        "nitro-signer dlq redrive s-17 s-18 --config worker.toml", "nitro-signer dlq redrive --all --role sign"
    )
)
def redrive(
    config: ConfigOption,
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="JOB_ID", help="As `dlq list` shows them; none with --all.")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All letters.")] = False,
    role: RoleOption = None,
    at_most: AtMostOption = 10_000,
    as_json: AsJsonOption = False,
) -> None:
    """Send dead letters back to the queue of their kind, and delete them here.

    Each is sent first and deleted then: after a crash in between its job is done twice, with the same result. Exit 1
    when a job id was not found, or a letter could not be sent.
    """
    wanted = set(job_ids or ())
    if bool(wanted) == everything:
        fail("dlq", "give job ids, or --all")

    async def run() -> tuple[set[str], bool]:
        from workers.queue import dead_letters

        seen: set[str] = set()
        all_sent = True
        async with _looking(load_or_fail("dlq", config), role, at_most) as boxes:
            for box in boxes:
                chosen = [letter for letter in box.letters if everything or letter.job_id in wanted]
                done, failed = await dead_letters.redrive(box.calls, box.queue_url, chosen, box.target_url)
                for letter in done:
                    box.letters.remove(letter)  # it is gone, and not to be released
                _tell(done, "sent", as_json=as_json)
                _tell(failed, "not sent", as_json=as_json)
                seen |= {letter.job_id for letter in chosen}
                all_sent = all_sent and not failed
        return seen, all_sent

    seen, all_sent = asyncio.run(run())
    for job_id in sorted(wanted - seen):
        typer.echo(f"dlq: no letter of the job {job_id}", err=True)
    if wanted - seen or not all_sent:
        raise typer.Exit(EXIT_REFUSED)


@contextlib.asynccontextmanager
async def _looking(settings: WorkerSettings, role: WorkerRole | None, at_most: int) -> AsyncGenerator[list[_Box], None]:
    """Take what is in the dead-letter queues, and give back at the end what is still in a box."""
    from workers.queue import dead_letters
    from workers.queue.sqs import SqsCalls

    boxes: list[_Box] = []
    async with open_queues("dlq", settings.region) as sqs:
        try:
            for name, engine in engines_of(settings).items():
                queue_url = engine.dead_letter_queue_url
                if queue_url is None or role not in {None, name}:
                    continue
                box = _Box(name, queue_url, engine.queue_url, SqsCalls(sqs, engine.call_timeout_s), [])
                boxes.append(box)
                with about("dlq", queue_url):
                    box.letters.extend(await dead_letters.look(sqs, queue_url, at_most=at_most))
            if not boxes:
                fail("dlq", "the configuration has no such dead_letter_queue_url")
            yield boxes
        finally:
            for box in boxes:
                await dead_letters.release(box.calls, box.queue_url, box.letters)


def _facts(letter: "DeadLetter") -> dict[str, str | int | None]:
    return {
        "job_id": letter.job_id,
        "type": letter.job_type,
        "userid": letter.userid,
        "error_code": letter.error_code,
        "receive_count": letter.receive_count,
        "dead_since_ms": letter.dead_since_ms,
        "message_id": letter.message_id,
    }


def _tell(letters: "Sequence[DeadLetter]", outcome: str, *, as_json: bool) -> None:
    for letter in letters:
        if as_json:
            print_json({"job_id": letter.job_id, "outcome": outcome})
        else:
            print(f"{letter.job_id}  {outcome}")


def _age(letter: "DeadLetter") -> str:
    if letter.dead_since_ms is None:
        return "-"
    minutes = int((system_clock() - letter.dead_since_ms / _MS) / _MINUTE_S)
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min"
