"""`nitro-signer enclave`: asks running enclaves what they are, with proof, and how they are."""

import asyncio
import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, cast

import typer

from config.worker import CONFIG_VARIABLE, WorkerConfigError, load_worker_settings
from protocol.address import Address, AddressError, parse_address
from protocol.attestation import ANYTHING, AttestationError, TrustRoot
from protocol.channel import open_channel
from protocol.clock import system_clock
from protocol.errors import SignerError
from protocol.live import LiveFactsError
from protocol.live_verification import VerifiedLive, verify_live
from protocol.messages import Attest, AttestResult, HelloResult, Status, StatusResult
from protocol.version import SOFTWARE
from workers.cli.examples import examples
from workers.cli.output import (
    EXIT_MISUSE,
    EXIT_REFUSED,
    fail,
    print_facts,
    print_json,
    read_hex,
    read_pcr,
    read_root,
)

app = typer.Typer(no_args_is_help=True, help="Running enclaves: what they are, with proof, and how they are.")

_TIMEOUT_S: Final = 10.0
_MAX_AGE_S: Final = 300.0
"""How far the enclave's clock and this machine's may differ. The nonce, not the time, proves that an answer is new."""

_NONCE_BYTES: Final = 32
_NONCE_RANGE: Final = range(16, 65)
"""Lengths of a nonce in bytes, see `protocol.messages.Attest`."""

_MS: Final = 1000

Addresses = Annotated[
    list[str] | None,
    typer.Option("--address", metavar="ADDR", help="vsock://CID:PORT or unix:///path. Default: those of --config."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", envvar=CONFIG_VARIABLE, help="Settings of the workers (TOML)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per enclave.")]


@app.callback()
def enclave() -> None:
    """Running enclaves: what they are, with proof, and how they are."""


@app.command(epilog=examples("nitro-signer enclave attest --nonce 00112233445566778899aabbccddeeff --pcr0 3f1c…9a"))
def attest(
    *,
    nonce: Annotated[
        str | None, typer.Option(metavar="HEX", help="16 to 64 bytes nobody could foresee. Default: random.")
    ] = None,
    address: Addresses = None,
    config: Config = None,
    pcr0: Annotated[
        list[str] | None, typer.Option("--pcr0", metavar="HEX", help="An image that may answer; may be repeated.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Root certificate to trust. Default: that of AWS.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask running enclaves for a fresh attestation document, verify it, and print what it binds.

    Exit 0 when every enclave is verified; 1 when a document is refused; 2 for a misuse, or when one does not answer.
    """
    addresses = _addresses(address, config)
    asked = secrets.token_bytes(_NONCE_BYTES) if nonce is None else read_hex("--nonce", nonce)
    if len(asked) not in _NONCE_RANGE:
        raise typer.BadParameter("16 to 64 bytes, that is 32 to 128 hexadecimal digits", param_hint="--nonce")
    trust_root = read_root(root)
    images = frozenset(read_pcr("--pcr0", text) for text in pcr0 or ())
    exit_code = 0
    for place in addresses:
        try:
            answer = asyncio.run(_attest(place, asked))
        except SignerError as error:
            exit_code = _unanswered(place, error, as_json=as_json)
            continue
        try:
            live = _verify(answer, trust_root, images, asked)
        except (AttestationError, LiveFactsError) as error:
            exit_code = exit_code or EXIT_REFUSED
            _print_refusal(place, error, as_json=as_json)
            continue
        facts = _live_facts(place, live, asked, pcr0_is_checked=bool(images))
        if as_json:
            evidence = {"document": _base64(answer.document), "facts": _base64(answer.facts)}
            print_json({"verified": True, **facts, **evidence})
        else:
            print("VERIFIED")
            print_facts(facts)
    raise typer.Exit(exit_code)


@app.command(epilog=examples("nitro-signer enclave status --address vsock://16:5000"))
def status(*, address: Addresses = None, config: Config = None, as_json: AsJson = False) -> None:
    """Ask every server process of the enclaves how it is. Nothing of this is proven: see `attest`.

    Exit 0 when all are ready; 1 when one is not; 2 for a misuse, or when one does not answer.
    """
    exit_code = 0
    for base in _addresses(address, config):
        index, processes = 0, 1
        while index < processes:
            place = base.sibling(index)
            index += 1
            try:
                hello, state = asyncio.run(_status(place))
            except SignerError as error:
                exit_code = _unanswered(place, error, as_json=as_json)
                continue
            processes = hello.enclave.processes
            if not state.ready:
                exit_code = exit_code or EXIT_REFUSED
            _print_status(place, hello, state, as_json=as_json)
    raise typer.Exit(exit_code)


def _addresses(given: Sequence[str] | None, config: Path | None) -> list[Address]:
    try:
        if given:
            return [parse_address(text) for text in given]
        if config is None:
            fail("enclave", "give --address, or --config with the settings of the workers")
        settings = load_worker_settings(config)
    except (AddressError, WorkerConfigError) as error:
        fail("enclave", str(error))
    return [place for role in (settings.generate, settings.sign) if role is not None for place in role.enclaves]


async def _attest(address: Address, nonce: bytes) -> AttestResult:
    async with open_channel(address, software=SOFTWARE, timeout_s=_TIMEOUT_S) as channel:
        return cast("AttestResult", await channel.call(Attest(nonce=nonce), timeout_s=_TIMEOUT_S))


async def _status(address: Address) -> tuple[HelloResult, StatusResult]:
    async with open_channel(address, software=SOFTWARE, timeout_s=_TIMEOUT_S) as channel:
        return channel.hello, cast("StatusResult", await channel.call(Status(), timeout_s=_TIMEOUT_S))


def _verify(answer: AttestResult, root: TrustRoot, images: frozenset[bytes], nonce: bytes) -> VerifiedLive:
    return verify_live(
        answer, root=root, pcr0=images or ANYTHING, nonce=nonce, now_s=system_clock(), max_age_s=_MAX_AGE_S
    )


def _unanswered(address: Address, error: SignerError, *, as_json: bool) -> int:
    if as_json:
        print_json({"address": str(address), "error": error.code, "reason": error.detail})
    else:
        typer.echo(f"enclave: {address}: {error.detail}", err=True)
    return EXIT_MISUSE


def _print_refusal(address: Address, error: AttestationError | LiveFactsError, *, as_json: bool) -> None:
    check = error.check.value if isinstance(error, AttestationError) else "facts"
    reason = error.text if isinstance(error, AttestationError) else str(error)
    if as_json:
        print_json({"verified": False, "address": str(address), "failed_check": check, "reason": reason})
    else:
        print(f"{address}: REFUSED by check {check}: {reason}")


def _live_facts(address: Address, live: VerifiedLive, nonce: bytes, *, pcr0_is_checked: bool) -> dict[str, str]:
    document = live.document
    pcrs = {f"pcr{index}": value.hex() for index, value in sorted(document.pcrs.items()) if any(value)}
    return {
        "address": str(address),
        "role": live.facts.role.value,
        "module_id": document.module_id,
        "time": datetime.fromtimestamp(document.timestamp_ms / _MS, tz=UTC).isoformat(timespec="milliseconds"),
        "nonce": nonce.hex(),
        "image": "one of the expected" if pcr0_is_checked else "not compared: no --pcr0 was given",
        **pcrs,
        "config_sha256": live.facts.config_sha256.hex(),
        "kms_key_arn": live.facts.kms_key_arn,
        "software": live.facts.software,
        "instance": live.facts.instance.hex(),
        "trust_root_sha256": document.root.fingerprint.hex(),
    }


def _print_status(address: Address, hello: HelloResult, state: StatusResult, *, as_json: bool) -> None:
    facts: dict[str, str | int | bool | None] = {
        "address": str(address),
        "role": hello.enclave.role,
        "software": hello.enclave.software,
        "module_id": hello.enclave.module_id,
        "ready": state.ready,
        "reason": state.reason,
        "credentials_expire_in_s": state.credentials_expire_in_s,
        "in_flight": state.in_flight,
    }
    if as_json:
        print_json({**facts, "counters": state.counters})
        return
    print_facts({name: _shown(value) for name, value in {**facts, **state.counters}.items()})
    print()


def _shown(value: str | int | bool | None) -> str:  # noqa: FBT001 - a value to print, not a switch
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
