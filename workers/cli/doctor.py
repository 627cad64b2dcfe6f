"""`nitro-signer doctor`: one line for each thing that a worker needs: ok, warn or fail, with the fix."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from config.keypolicy import PolicyError, PolicyKind, parse_policy
from protocol.clock import system_clock
from workers.cli.aws_errors import aws_or_fail
from workers.cli.output import fail, print_json
from workers.cli.settings import ConfigOption, load_or_fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config.keypolicy import Policy
    from config.worker import RoleSettings, WorkerRole, WorkerSettings
    from workers.doctor.finding import Finding
    from workers.proxy.settings import ProxySettings

_COMMAND: Final = "doctor"
_TIMEOUT_S: Final = 10.0
_TRIES: Final = 2


def doctor(
    config: ConfigOption,
    *,
    key_policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The KMS key's policy, JSON: aws kms get-key-policy.")
    ] = None,
    iam_policy: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="An IAM policy of the instance role, JSON: aws iam get-role-policy. May be repeated."
        ),
    ] = None,
    proxy_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings of the vsock-proxy (YAML): tries its destinations.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Check enclaves, key policy, the role's permissions, queues, tables, clock, proxy and allocator.

    Exit 0 when all is well; 1 with a warning; 2 with a failure, or when the settings cannot be used.
    """
    from workers.doctor.finding import worst

    settings = load_or_fail(_COMMAND, config)
    policy = None if key_policy is None else _read_policy(key_policy, PolicyKind.KEY)
    identity = {str(path): _read_policy(path, PolicyKind.IDENTITY) for path in iam_policy or ()}
    proxy = None if proxy_config is None else _read_proxy(proxy_config)
    with aws_or_fail(_COMMAND):
        findings = asyncio.run(_examine(settings, policy, identity, proxy))
    for finding in findings:
        if as_json:
            print_json(finding.to_dict())
        else:
            print(finding.to_line())
    raise typer.Exit(worst(findings))


async def _examine(
    settings: "WorkerSettings",
    policy: "Policy | None",
    identity: "Mapping[str, Policy]",
    proxy: "ProxySettings | None",
) -> "list[Finding]":
    from aiobotocore.session import get_session

    from workers.aws import dynamodb_client, sqs_client
    from workers.doctor.enclaves import ask_pcr0, check_enclave
    from workers.doctor.machine import check_allocator, check_nitro_cli, check_proxy
    from workers.doctor.permissions import check_permissions
    from workers.doctor.queues import check_queues, check_tables

    session = get_session()
    session.set_config_variable("region", settings.region)
    findings = [check_allocator(), *await check_nitro_cli()]
    if proxy is not None:
        findings += await check_proxy(proxy)
    roles: tuple[tuple[WorkerRole, RoleSettings | None], ...] = (
        ("generate", settings.generate),
        ("sign", settings.sign),
    )
    async with (
        sqs_client(session, connections=1, read_timeout_s=_TIMEOUT_S, tries=_TRIES) as sqs,
        dynamodb_client(session, connections=1, read_timeout_s=_TIMEOUT_S, tries=_TRIES) as dynamodb,
    ):
        for job, role in roles:
            if role is None:
                continue
            for address in role.enclaves:
                findings += await check_enclave(job, address, kms_key_arn=settings.kms_key_arn, key_policy=policy)
            if identity:
                findings += check_permissions(job, settings, identity, await ask_pcr0(role.enclaves[0]))
            findings += await check_queues(sqs, job, role.engine, system_clock)
        findings += await check_tables(dynamodb, settings.store, with_births=settings.generate is not None)
    return findings


def _read_policy(path: Path, kind: PolicyKind) -> "Policy":
    try:
        return parse_policy(path.read_text(), kind)
    except OSError as error:
        fail(_COMMAND, f"{path}: {error.strerror}")
    except (PolicyError, UnicodeDecodeError) as error:
        fail(_COMMAND, f"{path}: {error}")


def _read_proxy(path: Path) -> "ProxySettings":
    from workers.proxy.settings import ConfigError, load_settings

    try:
        return load_settings(path)
    except ConfigError as error:
        fail(_COMMAND, str(error))
