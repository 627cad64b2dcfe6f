"""`nitro-signer vsock-proxy`: the command line of AWS's vsock-proxy, and a little more."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from protocol.clock import system_clock
from workers.cli.examples import examples
from workers.proxy.program import ListenError, run_proxy
from workers.proxy.settings import (
    DEFAULT_CONFIG_PATH,
    ConfigError,
    ProxySettings,
    load_settings,
    with_destination,
    with_max_connections,
)
from workers.service.sdnotify import Notifier

_EXIT_CANNOT_LISTEN = 1
_EXIT_BAD_CONFIG = 2

EPILOG: Final = examples(
    "nitro-signer vsock-proxy 8000 kms.eu-central-1.amazonaws.com 443 --config vsock-proxy.yaml",
    "nitro-signer vsock-proxy --config vsock-proxy.yaml",
    note="Exit code 0 after SIGTERM; 1 when it cannot listen; 2 for a configuration that cannot be used.",
)

_TARGET_HELP = "LOCAL_PORT REMOTE_HOST REMOTE_PORT, or REMOTE_HOST REMOTE_PORT after --listen, or none: those of FILE."


def vsock_proxy(
    target: Annotated[list[str] | None, typer.Argument(metavar="TARGET", help=_TARGET_HELP)] = None,
    *,
    ipv4: Annotated[bool, typer.Option("-4", "--ipv4", help="Connect to IPv4 addresses only.")] = False,
    ipv6: Annotated[bool, typer.Option("-6", "--ipv6", help="Connect to IPv6 addresses only.")] = False,
    max_connections: Annotated[
        int | None, typer.Option("-w", "--num_workers", metavar="N", help="Most connections at a time (default 1024).")
    ] = None,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="Allow-list, destinations and limits (YAML).")
    ] = DEFAULT_CONFIG_PATH,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDR", help="vsock://CID:PORT or unix:///path, for LOCAL_PORT.")
    ] = None,
) -> None:
    """Relay an enclave's connections to allowed TCP destinations."""
    try:
        settings = settings_of_command(
            target or [], ipv4=ipv4, ipv6=ipv6, max_connections=max_connections, config=config, listen=listen
        )
    except ConfigError as error:
        typer.echo(f"vsock-proxy: {error}", err=True)
        raise typer.Exit(_EXIT_BAD_CONFIG) from error
    notifier = Notifier.from_environment(os.environ)
    try:
        asyncio.run(run_proxy(settings, clock=system_clock, notifier=notifier, write_line=_write_line))
    except ListenError as error:
        typer.echo(f"vsock-proxy: {error}", err=True)
        raise typer.Exit(_EXIT_CANNOT_LISTEN) from error


def settings_of_command(
    target: list[str], *, ipv4: bool, ipv6: bool, max_connections: int | None, config: Path, listen: str | None
) -> ProxySettings:
    """Turn a command line into complete settings.

    Raises:
        ConfigError: one line that names the argument or key and says what is allowed.
    """
    if ipv4 and ipv6:
        raise ConfigError("-4 and -6 exclude each other")
    settings = load_settings(config)
    if max_connections is not None:
        settings = with_max_connections(settings, max_connections)
    destination = _destination(target, listen)
    if destination is not None:
        ip_version = 4 if ipv4 else 6 if ipv6 else None
        return with_destination(settings, {**destination, "ip_version": ip_version})
    if ipv4 or ipv6:
        raise ConfigError("-4 and -6 go with REMOTE_HOST; in a file, set ip_version of each destination")
    if not settings.destinations:
        raise ConfigError(f"{config}: destinations: field is missing, and the command line names none")
    return settings


def _destination(target: list[str], listen: str | None) -> dict[str, object] | None:
    if listen is not None:
        if len(target) != 2:  # noqa: PLR2004 - host and port
            raise ConfigError("with --listen, give REMOTE_HOST REMOTE_PORT")
        return {"listen": listen, "host": target[0], "port": _number(target[1], "REMOTE_PORT")}
    if not target:
        return None
    if len(target) != 3:  # noqa: PLR2004 - as AWS's proxy takes them
        raise ConfigError("give LOCAL_PORT REMOTE_HOST REMOTE_PORT")
    local_port = _number(target[0], "LOCAL_PORT")
    return {"listen": f"vsock://any:{local_port}", "host": target[1], "port": _number(target[2], "REMOTE_PORT")}


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{name}: a port number")
    return int(text)


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
