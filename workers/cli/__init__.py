"""The command `nitro-signer`. The AWS SDK is loaded only by the commands that call AWS, when they run."""

import errno
import os
import sys
from typing import Annotated, Final

import typer

from config.logging import LogLevel, configure_logging
from protocol.version import VERSION
from workers.cli import attestation, brakes, config, dlq, enclave, enqueue, image, key, policy, worker
from workers.cli.ask import GENERATE_EPILOG, SIGN_EPILOG, generate, sign
from workers.cli.doctor import doctor
from workers.cli.examples import examples
from workers.cli.output import EXIT_MISUSE, EXIT_REFUSED
from workers.cli.replies import EPILOG as REPLIES_EPILOG
from workers.cli.replies import replies
from workers.cli.schema import schema
from workers.cli.status import EPILOG as STATUS_EPILOG
from workers.cli.status import status
from workers.cli.vsock_proxy import EPILOG as PROXY_EPILOG
from workers.cli.vsock_proxy import vsock_proxy

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=GENERATE_EPILOG)(generate)
app.command(epilog=SIGN_EPILOG)(sign)
app.add_typer(enqueue.app, name="enqueue")
app.command(epilog=REPLIES_EPILOG)(replies)
app.command(epilog=STATUS_EPILOG)(status)
app.add_typer(dlq.app, name="dlq")
app.add_typer(worker.app, name="worker")
app.add_typer(config.app, name="config")
app.add_typer(enclave.app, name="enclave")
app.add_typer(key.app, name="key")
app.add_typer(attestation.app, name="attestation")
app.add_typer(policy.app, name="policy")
app.add_typer(brakes.app, name="brakes")
app.add_typer(image.app, name="image")
app.command(epilog=examples("nitro-signer doctor --config worker.toml --key-policy key-policy.json"))(doctor)
app.command(epilog=examples("nitro-signer schema job > job.json"))(schema)
app.command("vsock-proxy", epilog=PROXY_EPILOG)(vsock_proxy)

_SERVICES = frozenset({"worker", "vsock-proxy"})
_TELL_THEMSELVES = frozenset({"enqueue", "generate", "key", "sign"})
"""Commands that say in a line of their own what the log of each failed try would say."""


def _print_version(*, wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def nitro_signer(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001 - done by its callback
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Custody and signing of secp256k1 keys inside AWS Nitro Enclaves, driven by queues."""
    command = context.invoked_subcommand or ""
    if command in _SERVICES:  # their lines are their output
        configure_logging(command)
    else:
        level = LogLevel.ERROR if command in _TELL_THEMSELVES else LogLevel.WARNING
        configure_logging(command, stream=sys.stderr, level=level)


_OUTPUT_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def main() -> None:
    """Run the command line. A standard output that takes no more is one line, and one that nobody reads is none."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in {*_OUTPUT_IS_FULL, errno.EPIPE}:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        if error.errno in _OUTPUT_IS_FULL:
            typer.echo(f"nitro-signer: standard output: {error.strerror}", err=True)
            sys.exit(EXIT_MISUSE)
        sys.exit(EXIT_REFUSED)
