"""`nitro-signer generate` and `nitro-signer sign`: put a job on its queue, wait for the answer, and verify it."""

import asyncio
import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from config.worker import CLIENT_VARIABLE
from protocol.jobs import MessageEncoding
from protocol.messages import Digest, Scheme, SignatureFormat
from workers.cli.examples import examples
from workers.cli.output import EXIT_MISUSE, EXIT_REFUSED, fail, print_facts, print_json, read_hex

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workers.client import ClientSettings, PublicKey, Signature, SigningClient

GENERATE_EPILOG: Final = examples("nitro-signer generate u001 --client client.toml")
SIGN_EPILOG: Final = examples(
    "nitro-signer sign u001 'Hello World' --public-key c62b…0e --client client.toml",
    "nitro-signer sign u001 0x8f…27 --encoding hex --digest none --format recoverable --generate",
)

Result = TypeVar("Result")

ClientOption = Annotated[
    Path,
    typer.Option(
        "--client", metavar="FILE", envvar=CLIENT_VARIABLE, help="Settings of a client (TOML): queues and trust."
    ),
]
DeadlineOption = Annotated[
    float | None, typer.Option("--deadline", metavar="S", min=0.001, help="Give up after S seconds. Default: as set.")
]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object, of an error too.")]
UserIdArgument = Annotated[str, typer.Argument(metavar="USERID", help="Whose key.")]


def generate(
    userid: UserIdArgument, client: ClientOption, *, deadline: DeadlineOption = None, as_json: AsJsonOption = False
) -> None:
    """Have a key made for a user id, or get the one that it has; print it once its birth certificate is verified.

    Exit 0 with a key; 1 when the service refuses, or the certificate proves nothing; 2 when nobody answers.
    """
    key = _run("generate", client, lambda service: service.generate(userid, deadline_s=deadline), as_json=as_json)
    facts = _key_facts(key)
    if as_json:
        print_json({"userid": userid, **facts})
    else:
        print("VERIFIED: this key was made inside an image that the client trusts")
        print_facts({"user id": userid, **{name.replace("_", " "): value for name, value in facts.items()}})


def sign(
    userid: UserIdArgument,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What to sign, in --encoding.")],
    client: ClientOption,
    *,
    public_key: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The key that must have signed: 128 hexadecimal digits, as generate prints."),
    ] = None,
    first_generate: Annotated[
        bool,
        typer.Option("--generate", help="Get the key and its birth certificate first; makes one if there is none."),
    ] = False,
    encoding: Annotated[MessageEncoding, typer.Option(help="How MESSAGE is written.")] = MessageEncoding.UTF8,
    digest: Annotated[Digest, typer.Option(help="How the message becomes 32 bytes.")] = Digest.SHA256,
    scheme: Annotated[Scheme, typer.Option(help="Signature scheme.")] = Scheme.ECDSA,
    signature_format: Annotated[
        SignatureFormat, typer.Option("--format", help="How the signature is written.")
    ] = SignatureFormat.COMPACT,
    deadline: DeadlineOption = None,
    as_json: AsJsonOption = False,
) -> None:
    """Have a message signed; print the signature once it is verified with a key that is trusted here.

    That key comes from --public-key, from the settings of the client, or with --generate from the service together with
    its birth certificate. Exit 0 with a signature; 1 when the service refuses, or the signature does not verify; 2 when
    nobody answers, or for a misuse.
    """
    data = _decoded(message, encoding)
    pinned = None if public_key is None else _public_key(userid, public_key)

    async def ask(service: "SigningClient") -> "Signature":
        if pinned is not None:
            service.pin(userid, pinned)
        if first_generate:
            await service.generate(userid, deadline_s=deadline)
        return await service.sign(
            userid, data, digest=digest, scheme=scheme, format=signature_format, deadline_s=deadline
        )

    signature = _run("sign", client, ask, as_json=as_json)
    if as_json:
        print_json(
            {
                "userid": userid,
                "job_id": signature.job_id,
                "signature": signature.hex(),
                "digest": signature.digest.hex(),
                "publickey": signature.key.xy.hex(),
            }
        )
    else:
        print(signature.hex())


def _run(command: str, path: Path, ask: "Callable[[SigningClient], Awaitable[Result]]", *, as_json: bool) -> Result:
    """Open a client, ask, and turn every error into one line; with --json one of JSON beside it."""
    from workers.client import (
        AnswerRefusedError,
        ClientConfigError,
        JobFailedError,
        SigningClient,
        SigningError,
        load_client_settings,
    )

    async def run(settings: "ClientSettings") -> Result:
        async with SigningClient(settings) as service:
            return await ask(service)

    try:
        return asyncio.run(run(load_client_settings(path)))
    except ClientConfigError as error:
        fail(command, str(error))
    except SigningError as error:
        job = "" if error.job_id is None else f" (job {error.job_id})"
        typer.echo(f"{command}: {error}{job}", err=True)
        if as_json:
            told = {"code": error.code, "message": error.detail, "retryable": error.retryable}
            print_json({"error": told, "job_id": error.job_id})
        is_answer = isinstance(error, AnswerRefusedError | JobFailedError)
        raise typer.Exit(EXIT_REFUSED if is_answer else EXIT_MISUSE) from error
    except ValueError as error:  # a key that cannot be pinned
        fail(command, str(error))


def _key_facts(key: "PublicKey") -> dict[str, str]:
    facts = {"publickey": key.xy.hex(), "compressed": key.compressed.hex(), "ethereum_address": key.ethereum_address}
    if key.birth is not None:
        facts |= {
            "born_at": key.birth.time.isoformat(timespec="milliseconds"),
            "module_id": key.birth.module_id,
            "pcr0": key.birth.document.pcrs[0].hex(),
        }
    return facts


def _public_key(userid: str, text: str) -> bytes:
    from workers.client.settings import check_pinned

    value = read_hex("--public-key", text)
    try:
        check_pinned(userid, value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--public-key") from error
    return value


def _decoded(message: str, encoding: MessageEncoding) -> bytes:
    try:
        match encoding:
            case MessageEncoding.UTF8:
                return message.encode()
            case MessageEncoding.HEX:
                return binascii.unhexlify(message.removeprefix("0x"))
            case MessageEncoding.BASE64:
                return base64.b64decode(message, validate=True)
    except ValueError as error:
        raise typer.BadParameter(f"not {encoding}", param_hint="MESSAGE") from error
