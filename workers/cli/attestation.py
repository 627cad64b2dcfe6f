"""`nitro-signer attestation verify`: checks an attestation document and prints what it says."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from protocol.attestation import (
    ANYTHING,
    AtClock,
    AtOwnTime,
    AttestationError,
    DocumentPolicy,
    VerificationTime,
    VerifiedDocument,
    parse_document,
)
from workers.cli.document_file import read_document
from workers.cli.examples import examples
from workers.cli.output import EXIT_REFUSED, print_json, read_hex, read_pcr, read_root

app = typer.Typer(no_args_is_help=True, help="Attestation documents of AWS Nitro Enclaves.")

MAX_AGE_S: Final = 3 * 3600
"""For `--at`: the lifetime of a leaf certificate."""

MAX_FUTURE_S: Final = 60
"""For `--at`: room for a time that was written down without its fraction, or by another clock."""

_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Basis:
    """What a verdict was reached with; a part of the output, since a verdict means nothing without it."""

    root: str
    time: str

    def as_json(self) -> dict[str, str]:
        return {"trust_root": self.root, "verified_at": self.time}


@app.callback()
def attestation() -> None:
    """Attestation documents of AWS Nitro Enclaves."""


@app.command(epilog=examples("nitro-signer attestation verify document.cbor --pcr0 3f1c…9a --at 2026-04-21T22:33:40Z"))
def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The document, binary or base64; - is standard input.")],
    *,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Verify as of this time: ISO 8601 or seconds since 1970. Default: its own."),
    ] = None,
    pcr0: Annotated[str | None, typer.Option(metavar="HEX", help="Demand this measurement of the image.")] = None,
    nonce: Annotated[str | None, typer.Option(metavar="HEX", help="Demand this nonce.")] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Root certificate to trust. Default: that of AWS.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify an attestation document: exit 0 and its facts, 1 and the failed check, or 2 for a misuse.

    A document of an enclave in debug mode is marked; its measurements are zero, so it never matches --pcr0.
    """
    trust_root = read_root(root)
    when, time_text = _read_time(at)
    basis = _Basis(f"{root or 'AWS Nitro Enclaves root G1'} (SHA-256 {trust_root.fingerprint.hex()})", time_text)
    policy = DocumentPolicy(
        pcrs=ANYTHING if pcr0 is None else {0: [read_pcr("--pcr0", pcr0, may_be_zero=True)]},
        nonce=ANYTHING if nonce is None else read_hex("--nonce", nonce),
        public_key=ANYTHING,
        user_data=ANYTHING,
        allow_debug=pcr0 is None,  # where the image does not matter; it is marked in the output
    )
    data = read_document(file, option="FILE")
    try:
        verified = parse_document(data).verify(trust_root, policy, when)
    except AttestationError as error:
        _print_refusal(error, basis, as_json=as_json)
        raise typer.Exit(EXIT_REFUSED) from error
    _print_facts(verified, basis, as_json=as_json)


def _read_time(text: str | None) -> tuple[VerificationTime, str]:
    if text is None:
        return AtOwnTime(), "the document's own time; its age was not judged"
    try:
        now_s = float(text) if text.replace(".", "", 1).isdecimal() else _from_iso(text)
        shown = _show_time(now_s)
    except (ValueError, OverflowError, OSError) as error:
        raise typer.BadParameter(
            f"{text!r} is neither ISO 8601 (2026-04-21T22:33:40Z) nor seconds since 1970", param_hint="--at"
        ) from error
    return AtClock(now_s=now_s, max_age_s=MAX_AGE_S, max_future_s=MAX_FUTURE_S), shown


def _from_iso(text: str) -> float:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _print_refusal(error: AttestationError, basis: _Basis, *, as_json: bool) -> None:
    if as_json:
        print_json({"verified": False, "failed_check": error.check, "reason": error.text, **basis.as_json()})
        return
    print(f"REFUSED by check {error.check}: {error.text}")
    print(f"verified at  {basis.time}")
    print(f"trust root   {basis.root}")


def _print_facts(verified: VerifiedDocument, basis: _Basis, *, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "module_id": verified.module_id,
        "timestamp": _show_time(verified.timestamp_ms / _MS),
        "debug": verified.is_debug,
        "pcrs": {str(index): value.hex() for index, value in sorted(verified.pcrs.items())},
        "public_key": _show_bytes(verified.public_key),
        "user_data": _show_bytes(verified.user_data),
        "nonce": _show_bytes(verified.nonce),
        "certificates_not_before": verified.certificates_not_before.isoformat(),
        "certificates_not_after": verified.certificates_not_after.isoformat(),
    }
    if as_json:
        print_json({"verified": True, **facts, **basis.as_json()})
        return
    print("VERIFIED")
    print(f"verified at  {basis.time}")
    print(f"trust root   {basis.root}")
    print(f"module id    {facts['module_id']}")
    print(f"timestamp    {facts['timestamp']}")
    print(f"certificates {facts['certificates_not_before']} to {facts['certificates_not_after']}")
    if verified.is_debug:
        print("DEBUG MODE   the measurements below prove nothing")
    for index, value in facts["pcrs"].items():
        if any(verified.pcrs[int(index)]):
            print(f"{'PCR' + index:<12} {value}")
    for name in ("public_key", "user_data", "nonce"):
        print(f"{name:<12} {'-' if facts[name] is None else facts[name] or '(empty)'}")


def _show_time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).isoformat(timespec="milliseconds")


def _show_bytes(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
