"""The commands `policy make`, `policy check` and `policy simulate`."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from config.keypolicy import PolicyKind, parse_policy
from workers.cli.build_output import BuildOutputError, read_measurements
from workers.cli.policy import app

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

GENERATOR, SIGNER, ADMIN = (f"arn:aws:iam::111122223333:role/{name}" for name in ("Generator", "Signer", "Admin"))
GENERATOR_PCR0, SIGNER_PCR0, OTHER_PCR0, KERNEL = ("a1" * 48, "b2" * 48, "c3" * 48, "d4" * 48)
ROLES = ["--generator-role-arn", GENERATOR, "--signer-role-arn", SIGNER, "--admin-arn", ADMIN]
IMAGES = ["--generator-pcr0", GENERATOR_PCR0, "--signer-pcr0", SIGNER_PCR0]
BUILD = {"Measurements": {"HashAlgorithm": "Sha384 { ... }", "PCR0": SIGNER_PCR0, "PCR1": KERNEL, "PCR2": "e5" * 48}}


def run(*arguments: object) -> Result:
    """Run `policy` with arguments."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Give a file with the made key policy."""
    result = run("make", *ROLES, *IMAGES)
    assert result.exit_code == 0, result.output
    path = tmp_path / "made.json"
    path.write_text(result.stdout)
    return path


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """Give a file with the well-known demo's flaw."""
    keys = {"ImageSha384": SIGNER_PCR0, "PCR0": SIGNER_PCR0, "PCR1": KERNEL, "PCR2": "e5" * 48}
    condition = {f"kms:RecipientAttestation:{name}": value for name, value in keys.items()}
    use: dict[str, Any] = {"Principal": {"AWS": SIGNER}, "Action": "kms:Decrypt", "Resource": "*"}
    statements = [
        {"Sid": "OnlyEnclave", "Effect": "Deny", **use, "Condition": {"StringNotEqualsIgnoreCase": condition}},
        {"Sid": "Use", "Effect": "Allow", **use},
    ]
    path = tmp_path / "demo.json"
    path.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    return path


def test_make_prints_policies_that_check_finds_good(made: Path, tmp_path: Path) -> None:
    """Both policies, as text and as JSON, are the same and have no weakness."""
    iam = tmp_path / "iam.json"
    iam.write_text(run("make", *ROLES, *IMAGES, "--iam").stdout)
    both = json.loads(run("make", *ROLES, *IMAGES, "--json").stdout)
    assert both == {"key_policy": json.loads(made.read_text()), "iam_policy": json.loads(iam.read_text())}
    parse_policy(iam.read_text(), PolicyKind.IDENTITY)
    result = run("check", made, iam)
    assert (result.exit_code, result.stdout) == (0, "no weakness found\n")
    assert json.loads(run("check", made, "--json").stdout) == {"findings": []}


def test_make_reads_what_nitro_cli_prints_and_two_generations(tmp_path: Path) -> None:
    """A file gives its PCR0; a second PCR0 stands beside the first; PCR3 and PCR8 are demanded of both roles."""
    build = tmp_path / "signer.json"
    build.write_text("Start building the Enclave Image...\nEnclave Image successfully created.\n" + json.dumps(BUILD))
    more = ["--pcr3", "AA" * 48, "--pcr8", "bb" * 48]
    result = run(
        "make", *ROLES, "--generator-pcr0", "A1" * 48, "--signer-pcr0", build, "--signer-pcr0", OTHER_PCR0, *more
    )
    assert result.exit_code == 0, result.output
    _, signer, *_ = json.loads(result.stdout)["Statement"]
    assert signer["Condition"]["StringEqualsIgnoreCase"] == {
        "kms:RecipientAttestation:PCR0": [SIGNER_PCR0, OTHER_PCR0],
        "kms:RecipientAttestation:PCR3": ["aa" * 48],
        "kms:RecipientAttestation:PCR8": ["bb" * 48],
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--generator-pcr0", GENERATOR_PCR0], "--signer-pcr0 is missing"),
        ([*IMAGES, "--signer-pcr0", "00" * 48], "PCR0: zero"),
        ([*IMAGES, "--signer-pcr0", "missing.json"], "'missing.json' is neither 96 hexadecimal digits nor a file"),
        ([*IMAGES, "--signer-pcr0", GENERATOR_PCR0], "generator and signer have a PCR0 in common"),
        ([*IMAGES, "--signer-role-arn", "arn:aws:iam::111122223333:root"], "root is not the ARN of a role"),
        ([*IMAGES, "--signer-role-arn", "arn:aws:sts::111122223333:assumed-role/a/b"], "is not the ARN of a role"),
        ([*IMAGES, "--admin-arn", "Alice"], "'Alice' is not the ARN"),
    ],
)
def test_make_refuses_what_would_not_protect(arguments: list[str], text: str) -> None:
    """One line that says why, exit code 2."""
    result = run("make", *ROLES, *arguments)
    assert (result.exit_code, text in result.stderr) == (2, True), result.output


def test_make_refuses_a_file_that_nitro_cli_did_not_write(tmp_path: Path) -> None:
    """The file is named."""
    path = tmp_path / "other.json"
    path.write_text("{}")
    result = run("make", *ROLES, "--generator-pcr0", path, "--signer-pcr0", SIGNER_PCR0)
    assert (result.exit_code, "other.json: not what nitro-cli" in result.stderr) == (2, True)


def test_an_upgrade_from_beginning_to_end(tmp_path: Path) -> None:
    """While it lasts both signers open data keys; `retire` leaves the policy that `make` prints without the old one."""
    both, after = tmp_path / "both.json", tmp_path / "after.json"
    both.write_text(run("make", *ROLES, *IMAGES, "--signer-pcr0", OTHER_PCR0).stdout)
    for pcr0 in (SIGNER_PCR0, OTHER_PCR0):
        assert run("simulate", both, "--action", "Decrypt", "--pcr0", pcr0).exit_code == 0
    build = tmp_path / "old-signer.json"
    build.write_text(json.dumps(BUILD))
    retired = run("retire", both, "--pcr0", build)
    assert retired.exit_code == 0
    after.write_text(retired.stdout)
    made = run("make", *ROLES, "--generator-pcr0", GENERATOR_PCR0, "--signer-pcr0", OTHER_PCR0)
    assert json.loads(retired.stdout) == json.loads(made.stdout)
    assert [
        run("simulate", after, "--action", "Decrypt", "--pcr0", pcr0).exit_code for pcr0 in (SIGNER_PCR0, OTHER_PCR0)
    ] == [1, 0]
    again = run("retire", after, "--pcr0", build)
    assert (again.exit_code, again.stdout, again.stderr) == (
        1, "", f"policy: {after}: no condition names the image {SIGNER_PCR0}\n",
    )  # fmt: skip
    last = run("retire", after, "--pcr0", OTHER_PCR0)
    assert (last.exit_code, last.stdout) == (1, "")
    assert "SignerOpensDataKeys: kms:RecipientAttestation:PCR0 names no other image" in last.stderr


def test_retire_changes_a_policy_by_hand_no_further(tmp_path: Path) -> None:
    """One statement, single values, ImageSha384, other operators and other PCRs stay as they are written."""
    image, kernel = "kms:RecipientAttestation:ImageSha384", "kms:RecipientAttestation:PCR1"
    statement: dict[str, Any] = {
        "Sid": "Use", "Effect": "Allow", "Principal": {"AWS": SIGNER}, "Action": "kms:Decrypt", "Resource": "*",
        "Condition": {
            "StringEqualsIgnoreCase": {image: [SIGNER_PCR0.upper(), OTHER_PCR0], kernel: SIGNER_PCR0},
            "StringLike": {"kms:EncryptionContext:userid": "u*"},
        },
    }  # fmt: skip
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"Id": "mine", "Statement": statement}))
    changed = json.loads(run("retire", path, "--pcr0", SIGNER_PCR0).stdout)
    condition = {**statement["Condition"], "StringEqualsIgnoreCase": {image: [OTHER_PCR0], kernel: SIGNER_PCR0}}
    assert changed == {"Id": "mine", "Statement": [{**statement, "Condition": condition}]}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["missing.json", "--pcr0", SIGNER_PCR0], "missing.json: No such file"),
        (["bad.json", "--pcr0", SIGNER_PCR0], "bad.json: not JSON"),
        (["bad.json", "--pcr0", "00"], "--pcr0: '00' is neither 96 hexadecimal digits nor a file"),
    ],
)
def test_retire_names_a_misuse(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, one line, nothing on standard output that could be taken for a policy."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("no")
    if "bad.json: not" not in text:
        (tmp_path / "bad.json").write_text(json.dumps({"Statement": [{"Effect": "Deny", "Principal": "*"}]}))
    result = run("retire", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert text in result.stderr


def test_check_explains_the_demos_flaw(demo: Path, made: Path) -> None:
    """Each weakness is a line with file, Sid and fix; exit code 1; good files beside it stay silent."""
    result = run("check", demo, made)
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{demo}: OnlyEnclave: denies only when all 4 negated keys differ")
    assert first.endswith("Fix: write one Deny statement for each key. [negated-keys-anded]")
    assert second.startswith(f"{demo}: Use: allows Decrypt without attestation")
    found = json.loads(run("check", demo, "--json").stdout)["findings"]
    assert [(finding["statement"], finding["weakness"]) for finding in found] == [
        ("OnlyEnclave", "negated-keys-anded"),
        ("Use", "unattested-use"),
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "not JSON"),
        (b"\xff", "decode"),
        (b'{"Statement": [{"Principal": "*"}]}', "statement 1: Effect"),
        (b" " * ((1 << 20) + 1), "more than"),
    ],
)
def test_what_is_no_policy_is_a_misuse(tmp_path: Path, content: bytes, text: str) -> None:
    """The file is named, exit code 2."""
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    result = run("check", path)
    assert (result.exit_code, "bad.json" in result.stderr, text in result.stderr) == (2, True, True), result.stderr
    assert run("check", tmp_path / "none.json").exit_code == 2


def test_simulate_shows_the_bypass_and_that_the_made_policy_closes_it(demo: Path, made: Path) -> None:
    """Another image with the same PCR1: allowed by the demo's policy, denied by ours."""
    other = ["--action", "Decrypt", "--pcr0", OTHER_PCR0, "--pcr1", KERNEL, "--principal", SIGNER]
    bypass = run("simulate", demo, *other)
    assert bypass.exit_code == 0
    assert bypass.stdout == f"ALLOWED: kms:Decrypt by {SIGNER}\n  by Use of the key policy\n"
    unattested = run("simulate", demo, "--action", "Decrypt")
    assert (unattested.exit_code, "by OnlyEnclave of the key policy" in unattested.stdout) == (1, True)
    denied = run("simulate", made, *other)
    assert denied.exit_code == 1
    assert denied.stdout.startswith("DENIED EXPLICITLY")
    assert "by DenyDecryptWithoutPCR0 of the key policy" in denied.stdout
    ours = run("simulate", made, "--action", "kms:Decrypt", "--pcr0", SIGNER_PCR0, "--json")
    assert (ours.exit_code, json.loads(ours.stdout)["allowed"]) == (0, True)
    assert json.loads(ours.stdout)["statements"] == [{"policy": "key policy", "statement": "SignerOpensDataKeys"}]


def test_simulate_asks_iam_policies_too(tmp_path: Path, made: Path) -> None:
    """GenerateRandom is decided by the IAM policy alone."""
    iam = tmp_path / "iam.json"
    iam.write_text(run("make", *ROLES, *IMAGES, "--iam").stdout)
    ask = ["simulate", made, "--action", "GenerateRandom", "--principal", GENERATOR, "--pcr0", GENERATOR_PCR0]
    assert run(*ask).exit_code == 1
    result = run(*ask, "--iam", iam)
    assert (result.exit_code, f"by GeneratorTakesRandomness of the {iam}" in result.stdout) == (0, True)


def test_simulate_knows_the_encryption_context(tmp_path: Path) -> None:
    """A pair of it is a condition key."""
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": SIGNER},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": {"StringEquals": {"kms:EncryptionContext:userid": "u001"}},
    }
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"Statement": statement}))
    assert run("simulate", path, "--action", "Decrypt", "--context", "userid=u001").exit_code == 0
    assert run("simulate", path, "--action", "Decrypt", "--context", "userid=u002").exit_code == 1
    # nobody is named for Encrypt, so the first of the policy asks
    assert f"by {SIGNER}" in run("simulate", path, "--action", "Encrypt").stdout


def test_simulate_takes_the_pcrs_of_a_document(vectors: Path, tmp_path: Path) -> None:
    """The measurements of a real document are what the policy is asked with."""
    document = vectors / "attestation" / "valid" / "2026-04-21_f1f0574519c9.cbor"
    from protocol.attestation import parse_document

    pcr0 = parse_document(document.read_bytes()).pcrs[0].hex()
    path = tmp_path / "made.json"
    path.write_text(run("make", *ROLES, "--generator-pcr0", GENERATOR_PCR0, "--signer-pcr0", pcr0).stdout)
    assert run("simulate", path, "--action", "Decrypt", "--document", document).exit_code == 0
    assert run("simulate", path, "--action", "GenerateDataKey", "--document", document).exit_code == 1
    text = tmp_path / "document.base64"
    text.write_bytes(base64.encodebytes(document.read_bytes()))
    assert run("simulate", path, "--action", "Decrypt", "--document", text).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--pcr0", "xyz"], "--pcr0: not hexadecimal"),
        (["--pcr8", "abcd"], "--pcr8: 96 digits, not 4"),
        (["--principal", "Alice"], "'Alice' is not the ARN"),
        (["--context", "userid"], "'userid' is not NAME=VALUE"),
        (["--document", "FILE"], "structure"),
        (["--document", "FILE", "--pcr0", SIGNER_PCR0], "exclude each other"),
        (["--iam", "FILE"], "not in an identity-based policy"),
    ],
)
def test_simulate_names_a_misuse(made: Path, arguments: list[str], text: str) -> None:
    """One line, exit code 2."""
    arguments = [str(made) if argument == "FILE" else argument for argument in arguments]
    result = run("simulate", made, "--action", "Decrypt", *arguments)
    assert (result.exit_code, text in result.stderr) == (2, True), result.output


def test_simulate_needs_somebody_who_asks(tmp_path: Path) -> None:
    """A policy that names nobody leaves it to the caller to say who."""
    path = tmp_path / "policy.json"
    path.write_text('{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}}')
    result = run("simulate", path, "--action", "Decrypt")
    assert (result.exit_code, "say --principal" in result.stderr) == (2, True)
    assert run("simulate", path, "--action", "Decrypt", "--principal", SIGNER).exit_code == 0


def test_measurements_of_a_signed_image_have_pcr8() -> None:
    """The signing certificate's measurement is there if the image is signed."""
    signed = {"Measurements": {**BUILD["Measurements"], "PCR8": "F6" * 48}}
    assert read_measurements(json.dumps(signed))["PCR8"] == "f6" * 48
    assert "PCR8" not in read_measurements(json.dumps(BUILD))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"Measurements": {}}',
        '{"Measurements": []}',
        json.dumps({"Measurements": dict.fromkeys(("PCR0", "PCR1", "PCR2"), "ab")}),
    ],
)
def test_other_output_has_no_measurements(text: str) -> None:
    """What is not the Nitro CLI's is refused."""
    with pytest.raises(BuildOutputError):
        read_measurements(text)
