"""`nitro-signer attestation verify`: exit codes and output."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from local.nitro_authority import NitroAuthority
from local.nitro_document import make_document
from tests.protocol.test_attestation_vectors import DERIVED
from workers.cli.attestation import app

NOW_S = 1_790_000_000.25
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
PCRS = {index: bytes([index + 1]) * 48 for index in range(8)} | {8: bytes(48)}
VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "attestation"

runner = CliRunner()


@pytest.fixture(scope="module")
def authority() -> NitroAuthority:
    """Give the root of the documents made here."""
    return NitroAuthority.create(now_s=NOW_S)


@pytest.fixture
def root(authority: NitroAuthority, tmp_path: Path) -> str:
    """Give the path of the root certificate."""
    path = tmp_path / "root.pem"
    path.write_bytes(authority.certificate_pem)
    return str(path)


def made(authority: NitroAuthority, **changes: Any) -> bytes:
    """Return a document."""
    fields: dict[str, Any] = {"pcrs": PCRS, "public_key": b"key", "user_data": b"", "nonce": None} | changes
    signer = authority.issue_signer(MODULE_ID, now_s=NOW_S)
    return make_document(signer, module_id=MODULE_ID, time_s=NOW_S, **fields)


@pytest.fixture
def file(authority: NitroAuthority, tmp_path: Path) -> str:
    """Give the path of a good document."""
    path = tmp_path / "document.cbor"
    path.write_bytes(made(authority))
    return str(path)


def run(*arguments: str, stdin: bytes | None = None) -> tuple[int, str]:
    """Return exit code and output, standard error included."""
    result = runner.invoke(app, ["verify", *arguments], input=stdin)
    return result.exit_code, result.output


def test_facts_come_as_text(file: str, root: str) -> None:
    """The text has the facts, and says by which root and time they were judged; zero PCRs are left out."""
    code, output = run(file, "--root", root)
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == "VERIFIED"
    assert "verified at  the document's own time; its age was not judged" in lines
    assert lines[2].startswith(f"trust root   {root} (SHA-256 ")
    assert f"module id    {MODULE_ID}" in lines
    assert "timestamp    2026-09-21T14:13:20.250+00:00" in lines
    assert f"PCR0         {'01' * 48}" in lines
    assert not any(line.startswith("PCR8") for line in lines)
    assert lines[-3:] == ["public_key   6b6579", "user_data    (empty)", "nonce        -"]


def test_facts_come_as_json(file: str, root: str) -> None:
    """`--json` prints one object with every fact."""
    code, output = run(file, "--root", root, "--json")
    facts = json.loads(output)
    assert code == 0
    assert (facts["verified"], facts["debug"], facts["module_id"]) == (True, False, MODULE_ID)
    assert facts["pcrs"] == {str(index): value.hex() for index, value in PCRS.items()}
    assert (facts["public_key"], facts["user_data"], facts["nonce"]) == ("6b6579", "", None)
    assert facts["verified_at"].startswith("the document's own time")


def test_base64_and_standard_input_are_read(file: str, root: str) -> None:
    """Binary, base64 with line ends, base64 for URLs without padding; from a file or from standard input."""
    data = Path(file).read_bytes()
    for form in (data, base64.encodebytes(data), base64.urlsafe_b64encode(data).rstrip(b"="), b"\xd2" + data):
        assert run("-", "--root", root, stdin=form)[0] == 0
    Path(file).write_bytes(base64.b64encode(data))
    assert run(file, "--root", root)[0] == 0


@pytest.mark.parametrize(
    ("time", "code"),
    [
        ("2026-09-21T14:13:20+00:00", 0),
        ("2026-09-21T14:13:20Z", 0),
        ("2026-09-21T14:13:21", 0),
        ("1790000000.25", 0),
        ("1790010000", 0),
        ("1790020000", 1),
        ("1789999900", 1),
        ("2030-01-01", 1),
    ],
)
def test_at_judges_the_age(file: str, root: str, time: str, code: int) -> None:
    """At a given time, certificates and document must be of that time; a time without zone is UTC."""
    result, output = run(file, "--root", root, "--at", time)
    assert result == code
    assert code == 0 or "REFUSED by check time" in output


def test_demands_are_checked(authority: NitroAuthority, file: str, root: str) -> None:
    """PCR0 and nonce must be the given ones; a refusal names the check, in text and in JSON."""
    assert run(file, "--root", root, "--pcr0", "01" * 48)[0] == 0
    assert run(file, "--root", root, "--pcr0", "02" * 48)[0] == 1
    code, output = run(file, "--root", root, "--nonce", "00", "--json")
    assert (code, json.loads(output)["failed_check"], json.loads(output)["verified"]) == (1, "nonce", False)
    assert run("-", "--root", root, "--nonce", "0aFF", stdin=made(authority, nonce=b"\x0a\xff"))[0] == 0


def test_the_default_root_is_aws_and_said(file: str) -> None:
    """Without `--root` a stand-in's document is refused, and the output says which root was meant."""
    code, output = run(file)
    assert code == 1
    assert "REFUSED by check root" in output
    assert "trust root   AWS Nitro Enclaves root G1" in output


def test_debug_mode_is_marked_and_matches_no_image(authority: NitroAuthority, root: str) -> None:
    """A debug document is genuine and marked; where an image is demanded it is refused, were zeros demanded."""
    data = made(authority, pcrs=PCRS | dict.fromkeys(range(3), bytes(48)))
    code, output = run("-", "--root", root, stdin=data)
    assert code == 0
    assert "DEBUG MODE" in output
    for pcr0 in (PCRS[0].hex(), bytes(48).hex()):
        code, output = run("-", "--root", root, "--pcr0", pcr0, stdin=data)
        assert code == 1
        assert "REFUSED by check debug" in output


@pytest.mark.parametrize("data", [b"", b"not a document!", b"AAAA", b"\x84"])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    """Bytes that are not a document fail the check of structure: exit 1, not 2."""
    code, output = run("-", stdin=data)
    assert code == 1
    assert "REFUSED by check structure" in output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-file"],
        ["-", "--at", "yesterday"],
        ["-", "--at", "99999999999999999999"],
        ["-", "--pcr0", "xyz"],
        ["-", "--nonce", "0"],
        ["-", "--root", "no-such-file"],
        ["-", "--root", __file__],
        ["-", "--unknown"],
    ],
)
def test_misuse_is_exit_2(arguments: list[str]) -> None:
    """What the caller got wrong is no verdict on a document."""
    assert run(*arguments, stdin=b"")[0] == 2


def test_a_file_that_is_far_too_long_is_misuse(tmp_path: Path) -> None:
    """Not more than the limit is read."""
    path = tmp_path / "long"
    path.write_bytes(bytes(64 * 1024 + 1))
    assert run(str(path))[0] == 2


def test_real_documents_get_their_verdict() -> None:
    """Every real document verifies with no options at all; where its image matters, debug ones are refused as such."""
    if not VECTORS.exists():
        pytest.skip("no attestation vectors at ../shared/vectors/attestation")
    for entry in json.loads((VECTORS / "manifest.json").read_text()):
        assert run(str(VECTORS / entry["file"]))[0] == 0
        code, output = run(str(VECTORS / entry["file"]), "--pcr0", entry["pcr0"], "--json")
        result = json.loads(output)
        assert (code, result.get("failed_check")) == ((1, "debug") if entry["debug"] else (0, None))
        assert entry["debug"] or result["pcrs"]["0"] == entry["pcr0"]
    for path in (VECTORS / "invalid").glob("*.cbor"):
        assert run(str(path))[0] == 1


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_derived_documents_get_their_verdict(name: str) -> None:
    """Exit 0 or 1, and the check that the library names."""
    file = VECTORS / "derived" / f"{name}.cbor"
    if not file.exists():
        pytest.skip("no attestation vectors at ../shared/vectors")
    code, output = run(str(file), "--json")
    check = DERIVED[name]
    result = json.loads(output)
    assert (code, result["verified"], result.get("failed_check")) == (
        (0, True, None) if check is None else (1, False, check)
    )
