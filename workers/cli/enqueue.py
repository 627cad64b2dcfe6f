"""`nitro-signer enqueue`: puts jobs on their queues."""

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.jobs import JobRefusedError, MessageEncoding, parse_job
from protocol.messages import Digest, Scheme, SignatureFormat
from workers.cli.enqueue_file import EPILOG as FILE_EPILOG
from workers.cli.enqueue_file import enqueue_file
from workers.cli.examples import examples
from workers.cli.output import fail, print_json
from workers.cli.queues import about, open_queues
from workers.cli.settings import ConfigOption, load_or_fail, role_or_fail

if TYPE_CHECKING:
    from pathlib import Path

    from config.worker import WorkerRole

app = typer.Typer(no_args_is_help=True, help="Put jobs on their queues.")
app.command("file", epilog=FILE_EPILOG)(enqueue_file)

_FIFO_SUFFIX = ".fifo"

JobIdOption = Annotated[
    str | None, typer.Option("--job-id", metavar="ID", help="Comes back in the reply. [default: the SQS message id]")
]
ReplyToOption = Annotated[
    str | None, typer.Option("--reply-to", metavar="URL", help="Queue for the reply, if the worker allows it.")
]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
UserIdArgument = Annotated[str, typer.Argument(metavar="USERID", help="Whose key.")]


@app.callback()
def enqueue() -> None:
    """Put jobs on their queues: one from arguments, or those of a file."""


@app.command(epilog=examples("nitro-signer enqueue generate u001 --config worker.toml"))
def generate(
    userid: UserIdArgument,
    config: ConfigOption,
    job_id: JobIdOption = None,
    reply_to: ReplyToOption = None,
    *,
    as_json: AsJsonOption = False,
) -> None:
    """Have a key made for a user id, or get the key that it has."""
    _send(
        "generate",
        config,
        {"type": "generate", "job_id": job_id, "userid": userid, "reply_to": reply_to},
        as_json=as_json,
    )


@app.command(epilog=examples("nitro-signer enqueue sign u001 'Hello World' --digest keccak256 --config worker.toml"))
def sign(
    userid: UserIdArgument,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What to sign, in --encoding.")],
    config: ConfigOption,
    encoding: Annotated[MessageEncoding, typer.Option(help="How MESSAGE is written.")] = MessageEncoding.UTF8,
    digest: Annotated[Digest, typer.Option(help="How the message becomes 32 bytes.")] = Digest.SHA256,
    scheme: Annotated[Scheme, typer.Option(help="Signature scheme.")] = Scheme.ECDSA,
    signature_format: Annotated[
        SignatureFormat, typer.Option("--format", help="How the signature is written.")
    ] = SignatureFormat.COMPACT,
    job_id: JobIdOption = None,
    reply_to: ReplyToOption = None,
    *,
    as_json: AsJsonOption = False,
) -> None:
    """Have a message signed with the key of a user id."""
    job = {
        "type": "sign",
        "job_id": job_id,
        "userid": userid,
        "message": message,
        "encoding": encoding,
        "digest": digest,
        "scheme": scheme,
        "format": signature_format,
        "reply_to": reply_to,
    }
    _send("sign", config, job, as_json=as_json)


def _send(role: "WorkerRole", config: "Path", job: dict[str, str | None], *, as_json: bool) -> None:
    body = json.dumps({name: value for name, value in job.items() if value is not None}, ensure_ascii=False)
    try:
        parsed = parse_job(body, "unsent")
    except JobRefusedError as refused:
        fail("enqueue", refused.error.detail)
    settings = load_or_fail("enqueue", config)
    queue_url = role_or_fail("enqueue", config, settings, role).engine.queue_url
    fifo: dict[str, Any] = {}
    if queue_url.endswith(_FIFO_SUFFIX):
        fifo = {"MessageGroupId": parsed.userid, "MessageDeduplicationId": job["job_id"] or str(uuid.uuid4())}

    async def send() -> str:
        async with open_queues("enqueue", settings.region) as sqs:
            with about("enqueue", queue_url):
                sent = await sqs.send_message(QueueUrl=queue_url, MessageBody=body, **fifo)
            return sent["MessageId"]

    message_id = asyncio.run(send())
    job_id = job["job_id"] or message_id
    if as_json:
        print_json({"job_id": job_id, "message_id": message_id, "queue_url": queue_url})
    else:
        print(f"{job_id}  on {queue_url.rsplit('/', 1)[-1]}")
