"""`nitro-signer policy make | retire | check | simulate`: KMS key policies, made, changed, judged and asked."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from config.keypolicy import (
    AllowedImages,
    Decision,
    Policies,
    Policy,
    PolicyError,
    PolicyKind,
    Principal,
    Request,
    attestation_context,
    encryption_context_keys,
    evaluate,
    make_identity_policy,
    make_key_policy,
    parse_policy,
    retire_image,
)
from config.keypolicy.check import Finding, check_policy
from config.keypolicy.conditions import RequestContext
from config.keypolicy.evaluate import NO_RESOURCE
from protocol.attestation import AttestationError, parse_document
from workers.cli.build_output import BuildOutputError, read_measurements
from workers.cli.document_file import read_document
from workers.cli.examples import examples
from workers.cli.output import EXIT_MISUSE, EXIT_REFUSED, print_json

app = typer.Typer(no_args_is_help=True, help="KMS key policies: make one, check one, ask one.")

_MAX_FILE_BYTES: Final = 1 << 20
_WITHOUT_KEY: Final = frozenset({"generaterandom", "createkey", "listkeys", "listaliases"})
_PCR_DIGITS: Final = 96
_PCR: Final = re.compile(rf"[0-9A-Fa-f]{{{_PCR_DIGITS}}}")
_PCR_OPTION: Final = "HEX"
_PCR_HELP: Final = "What the caller's attestation document says; 96 hexadecimal digits."

_Images = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HEX|FILE",
        help="PCR0 of the image, or what `nitro-cli build-enclave` printed. Twice while an upgrade lasts.",
    ),
]


@app.callback()
def policy() -> None:
    """KMS key policies: make one, check one, ask one."""


@app.command(
    epilog=examples(
        "nitro-signer policy make \\\n"
        "--generator-pcr0 generator.json --generator-role-arn arn:aws:iam::111122223333:role/Generator \\\n"
        "--signer-pcr0 signer.json --signer-role-arn arn:aws:iam::111122223333:role/Signer \\\n"
        "--admin-arn arn:aws:iam::111122223333:role/Admin"
    )
)
def make(
    *,
    generator_role_arn: Annotated[str, typer.Option(metavar="ARN", help="Instance role of the generator.")],
    signer_role_arn: Annotated[str, typer.Option(metavar="ARN", help="Instance role of the signer.")],
    admin_arn: Annotated[list[str], typer.Option(metavar="ARN", help="Who manages the key without using it.")],
    generator_pcr0: _Images = None,
    signer_pcr0: _Images = None,
    pcr3: Annotated[list[str] | None, typer.Option(metavar=_PCR_OPTION, help="Demand this PCR3 (role) too.")] = None,
    pcr8: Annotated[list[str] | None, typer.Option(metavar=_PCR_OPTION, help="Demand this PCR8 (signer) too.")] = None,
    iam: Annotated[bool, typer.Option("--iam", help="Print the IAM policy of the generator's role instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help='One object: {"key_policy": …, "iam_policy": …}.')] = False,
) -> None:
    """Print the key policy for two images, or four while an upgrade lasts: `policy retire` ends it. Exit 0, or 2."""
    others = {index: tuple(_lower(values)) for index, values in ((3, pcr3), (8, pcr8)) if values}
    try:
        generator = AllowedImages(_pcr0("--generator-pcr0", generator_pcr0), others)
        signer = AllowedImages(_pcr0("--signer-pcr0", signer_pcr0), others)
        key_policy = make_key_policy(
            generator_role_arn=generator_role_arn,
            generator_images=generator,
            signer_role_arn=signer_role_arn,
            signer_images=signer,
            admin_arns=admin_arn,
        )
    except PolicyError as error:
        raise _misuse(str(error)) from error
    iam_policy = make_identity_policy(generator)
    if as_json:
        print_json({"key_policy": key_policy, "iam_policy": iam_policy})
    else:
        print(json.dumps(iam_policy if iam else key_policy, indent=2))


@app.command(epilog=examples("nitro-signer policy retire key-policy.json --pcr0 old-signer.json > new-policy.json"))
def retire(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The key policy or IAM policy, JSON.")],
    *,
    pcr0: Annotated[
        list[str], typer.Option(metavar="HEX|FILE", help="PCR0 of an image that is replaced; may be repeated.")
    ],
) -> None:
    """Print a policy without an old image, when an upgrade is over. Everything else in it stays as it is.

    Exit 0; 1 when the policy does not name the image, or names no other; 2 for a misuse.
    """
    parsed = _read_policy(file)
    document: dict[str, Any] = json.loads(_read(file))
    for old in _pcr0("--pcr0", pcr0):
        try:
            document = retire_image(document, parsed, old)
        except PolicyError as error:
            typer.echo(f"policy: {file}: {error}", err=True)
            raise typer.Exit(EXIT_REFUSED) from error
    print(json.dumps(document, indent=2))


@app.command(epilog=examples("nitro-signer policy check key-policy.json"))
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Key policies or IAM policies, JSON.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Explain each weakness in one line: exit 0 if there is none, 1 if there is one, 2 for a file that is no policy."""
    found = [(file, finding) for file in files for finding in check_policy(_read_policy(file))]
    if as_json:
        print_json({"findings": [_as_json(file, finding) for file, finding in found]})
    else:
        for file, finding in found:
            print(f"{file}: {finding.statement}: {finding.text}. Fix: {finding.fix}. [{finding.weakness}]")
        if not found:
            print("no weakness found")
    if found:
        raise typer.Exit(EXIT_REFUSED)


@app.command(
    epilog=examples(
        "nitro-signer policy simulate key-policy.json --action Decrypt --pcr0 3f1c…9a",
        "nitro-signer policy simulate key-policy.json --action GenerateDataKey --document document.cbor",
    )
)
def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The key policy, JSON.")],
    *,
    action: Annotated[str, typer.Option(metavar="NAME", help="Decrypt, GenerateDataKey, …")],
    principal: Annotated[
        str | None,
        typer.Option(metavar="ARN", help="Who asks. [default: the first that the policy names for the action]"),
    ] = None,
    pcr0: Annotated[str | None, typer.Option(metavar=_PCR_OPTION, help=_PCR_HELP)] = None,
    pcr1: Annotated[str | None, typer.Option(metavar=_PCR_OPTION, help=_PCR_HELP)] = None,
    pcr2: Annotated[str | None, typer.Option(metavar=_PCR_OPTION, help=_PCR_HELP)] = None,
    pcr3: Annotated[str | None, typer.Option(metavar=_PCR_OPTION, help=_PCR_HELP)] = None,
    pcr4: Annotated[str | None, typer.Option(metavar=_PCR_OPTION, help=_PCR_HELP)] = None,
    pcr8: Annotated[str | None, typer.Option(metavar=_PCR_OPTION, help=_PCR_HELP)] = None,
    document: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Take the PCRs of this document, binary or base64; it is not verified."),
    ] = None,
    iam: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="An IAM policy of the one who asks.")] = None,
    context: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A pair of the encryption context.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a key policy: exit 0 for allowed, 1 for denied, 2 for a misuse. Without PCRs the caller is not attested."""
    key_policy = _read_policy(file, PolicyKind.KEY)
    given = {0: pcr0, 1: pcr1, 2: pcr2, 3: pcr3, 4: pcr4, 8: pcr8}
    pcrs = {index: _pcr_value(index, text) for index, text in given.items() if text is not None}
    if document is not None:
        if pcrs:
            raise _misuse("--document and --pcrN exclude each other")
        pcrs = _document_pcrs(document)
    full_action = action if ":" in action else f"kms:{action}"
    has_key = full_action.partition(":")[2].lower() not in _WITHOUT_KEY
    try:
        caller = Principal.parse(principal or _first_principal(key_policy, full_action))
    except PolicyError as error:
        raise _misuse(str(error)) from error
    request = Request(
        action=full_action,
        principal=caller,
        resource=f"arn:{caller.partition}:kms:us-east-1:{caller.account}:key/simulated" if has_key else NO_RESOURCE,
        context=RequestContext.of(
            {"aws:PrincipalArn": caller.principal_arn, "aws:PrincipalAccount": caller.account},
            {"kms:CallerAccount": caller.account},
            encryption_context_keys(dict(map(_pair, context or []))),
            attestation_context(pcrs),
        ),
    )
    identity = {str(path): _read_policy(path, PolicyKind.IDENTITY) for path in iam or []}
    decision = evaluate(Policies(key_policy if has_key else None, identity), request)
    _print_decision(decision, request, as_json=as_json)
    if not decision.is_allowed:
        raise typer.Exit(EXIT_REFUSED)


def _print_decision(decision: Decision, request: Request, *, as_json: bool) -> None:
    by = [{"policy": found.policy, "statement": found.statement.name} for found in decision.statements]
    if as_json:
        facts: dict[str, Any] = {"allowed": decision.is_allowed, "outcome": decision.outcome.value, "statements": by}
        print_json({**facts, "action": request.action, "principal": request.principal.arn})
        return
    print(f"{decision.outcome.value.upper()}: {request.action} by {request.principal.arn}")
    if not decision.is_allowed:
        print(f"  {decision.explain(request.action)}")
    for found in by:
        print(f"  by {found['statement']} of the {found['policy']}")


def _read_policy(path: Path, kind: PolicyKind | None = None) -> Policy:
    """Read a policy; without a kind, one that speaks of principals is a key policy."""
    try:
        text = _read(path).decode()
        guessed = PolicyKind.KEY if re.search(r'"(Not)?Principal"\s*:', text) else PolicyKind.IDENTITY
        return parse_policy(text, kind or guessed)
    except (UnicodeDecodeError, PolicyError) as error:
        raise _misuse(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _misuse(f"{path}: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise _misuse(f"{path} has more than {_MAX_FILE_BYTES} bytes")
    return data


def _pcr0(option: str, values: list[str] | None) -> tuple[str, ...]:
    if not values:
        raise _misuse(f"{option} is missing")
    texts: list[str] = []
    for value in values:
        if _PCR.fullmatch(value):
            texts.append(value.lower())
            continue
        path = Path(value)
        if not path.is_file():
            raise _misuse(f"{option}: {value!r} is neither {_PCR_DIGITS} hexadecimal digits nor a file")
        try:
            texts.append(read_measurements(_read(path).decode(errors="replace"))["PCR0"])
        except BuildOutputError as error:
            raise _misuse(f"{path}: {error}") from error
    return tuple(dict.fromkeys(texts))


def _document_pcrs(name: str) -> dict[int, bytes]:
    try:
        return dict(parse_document(read_document(name, option="--document")).pcrs)
    except AttestationError as error:
        raise _misuse(f"{name}: {error}") from error


def _pcr_value(index: int, text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError as error:
        raise _misuse(f"--pcr{index}: not hexadecimal digits in pairs") from error
    if len(text) != _PCR_DIGITS:
        raise _misuse(f"--pcr{index}: {_PCR_DIGITS} digits, not {len(text)}")
    return value


def _first_principal(key_policy: Policy, action: str) -> str:
    for wants_action in (True, False):
        for statement in key_policy.statements:
            if wants_action and not statement.matches_action(action):
                continue
            for value in sorted(statement.principal.values) if statement.principal else ():
                if value.startswith("arn:"):
                    return value
    raise _misuse("the policy names nobody: say --principal")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise _misuse(f"--context: {text!r} is not NAME=VALUE")
    return name, value


def _lower(values: list[str]) -> list[str]:
    return [value.lower() for value in values]


def _as_json(file: Path, finding: Finding) -> dict[str, str]:
    return {
        "file": str(file),
        "statement": finding.statement,
        "weakness": finding.weakness,
        "text": finding.text,
        "fix": finding.fix,
    }


def _misuse(text: str) -> typer.Exit:
    typer.echo(f"policy: {text}", err=True)
    return typer.Exit(EXIT_MISUSE)
