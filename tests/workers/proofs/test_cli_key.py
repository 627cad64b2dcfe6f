"""`nitro-signer key`: what is exported from the tables verifies offline; exit codes, resuming, output."""

from __future__ import annotations

import contextlib
import json
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

import workers.aws
from protocol.keyproof import KeyProof
from workers.cli import key as key_cli
from workers.cli.key import app
from workers.keys.proof_check import Verdict, judge_all
from workers.keys.proof_export import take_up

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path

    from protocol.birth import BirthCertificate
    from protocol.keyrecord import KeyRecord
    from workers.keys.proof_check import Demands

    MakeBirth: TypeAlias = Callable[[str], tuple[KeyRecord, BirthCertificate]]
    MakeProof: TypeAlias = Callable[[str], KeyProof]

runner = CliRunner()
Attributes = dict[str, dict[str, str]]

CONFIG = """\
region = "eu-west-1"
[store]
collect_ms = 0
call_tries = 2
[generate]
enclaves = ["unix:///run/generator.sock"]
[generate.engine]
queue_url = "https://sqs.eu-west-1.amazonaws.com/111122223333/generate"
reply_queue_url = "https://sqs.eu-west-1.amazonaws.com/111122223333/reply"
"""


class Tables:
    """Two tables in memory, with the answers of DynamoDB: pages of a scan, unprocessed keys."""

    def __init__(self) -> None:
        self.records: dict[str, Attributes] = {}
        self.births: dict[str, Attributes] = {}
        self.page_items = 2
        self.fails = False
        self.births_stay_unprocessed = False
        self.scans = 0

    def put(self, record: KeyRecord, certificate: BirthCertificate | None) -> None:
        """Store a key."""
        self.records[record.userid] = {name: {"S": value} for name, value in record.to_item().items()}
        if certificate is not None:
            key = record.public_key.hex()
            self.births[key] = {"publickey": {"S": key}, "birth_certificate": {"S": certificate.to_base64()}}

    def _meet_faults(self) -> None:
        if self.fails:
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "any")

    async def get_item(self, **request: Any) -> dict[str, Any]:
        """Answer GetItem on the key table."""
        self._meet_faults()
        item = self.records.get(request["Key"]["userid"]["S"])
        return {"Item": item} if item else {}

    async def batch_get_item(self, **request: Any) -> dict[str, Any]:
        """Answer BatchGetItem on the table of births."""
        [(table, wanted)] = request["RequestItems"].items()
        if self.births_stay_unprocessed:
            return {"Responses": {}, "UnprocessedKeys": {table: wanted}}
        keys = [key["publickey"]["S"] for key in wanted["Keys"]]
        return {"Responses": {table: [self.births[key] for key in keys if key in self.births]}}

    async def scan(self, **request: Any) -> dict[str, Any]:
        """Answer Scan on the key table, in the order of the user ids."""
        self._meet_faults()
        self.scans += 1
        after = request.get("ExclusiveStartKey", {}).get("userid", {}).get("S", "")
        left = [userid for userid in sorted(self.records) if userid > after]
        page = left[: self.page_items]
        answer: dict[str, Any] = {"Items": [self.records[userid] for userid in page]}
        if len(left) > len(page):
            answer["LastEvaluatedKey"] = {"userid": {"S": page[-1]}}
        return answer


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tables:
    """Give the tables that the command will find, and its configuration."""
    found = Tables()

    @contextlib.asynccontextmanager
    async def client(*_: object, **__: object) -> AsyncGenerator[Tables, None]:
        yield found

    monkeypatch.setattr(workers.aws, "dynamodb_client", client)
    config = tmp_path / "workers.toml"
    config.write_text(CONFIG)
    monkeypatch.setenv("NITRO_SIGNER_CONFIG", str(config))
    return found


def run(*arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    result = runner.invoke(app, arguments, input=stdin)
    return result.exit_code, result.stdout, result.stderr


def objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of some lines."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def trusted(demands: Demands, root_pem: str) -> tuple[str, ...]:
    """Give the options that name the generator of these tests."""
    return ("--root", root_pem, "--pcr0", next(iter(demands.pcr0)).hex())


def test_an_exported_key_verifies_offline(
    tables: Tables, make_birth: MakeBirth, trusted: tuple[str, ...], tmp_path: Path
) -> None:
    """`prove` writes the file that `verify` accepts, and the facts say where and for whom the key was made."""
    record, certificate = make_birth("u001")
    tables.put(record, certificate)
    out = tmp_path / "u001.json"
    assert run("prove", "u001", "--out", str(out)) == (0, f"1 key written to {out}\n", "")
    code, text, _ = run("verify", str(out), *trusted)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == "VERIFIED: this key was made inside this image"
    assert "user id     u001 (what the parent asserted)" in lines
    assert f"public key  {record.public_key.hex()}" in lines
    assert "born at     2026-09-21T14:13:20.250+00:00" in lines


def test_a_stand_ins_key_is_refused_under_the_aws_root(make_proof: MakeProof, demands: Demands, tmp_path: Path) -> None:
    """Without `--root` only hardware of AWS is believed."""
    file = tmp_path / "u001.json"
    file.write_bytes(make_proof("u001").to_line())
    code, text, _ = run("verify", str(file), "--pcr0", next(iter(demands.pcr0)).hex())
    assert code == 1
    assert text.splitlines()[0].startswith("line 1 u001: REFUSED by check root: ")


def test_an_export_goes_to_standard_output_and_in_by_standard_input(
    tables: Tables, make_birth: MakeBirth, trusted: tuple[str, ...]
) -> None:
    """Both ends work in a pipe, and `--json` has every fact and the sum."""
    tables.put(*make_birth("u001"))
    code, proof, _ = run("prove", "u001")
    assert code == 0
    code, text, _ = run("verify", "-", "--json", *trusted, stdin=proof.encode())
    assert code == 0
    verdict, total = objects(text)
    assert (verdict["verified"], verdict["line"], verdict["userid"]) == (True, 1, "u001")
    assert verdict["kms_key"]["account"] == "111122223333"
    assert (total["keys"], total["valid"], total["refused"]) == (1, 1, 0)


def test_refused_lines_are_named(make_proof: MakeProof, trusted: tuple[str, ...], tmp_path: Path) -> None:
    """Exit 1, and each refused key with its line and check, as text and as JSON."""
    swapped = make_proof("u002").model_copy(update={"userid": "u009"})
    file = tmp_path / "keys.jsonl"
    file.write_bytes(make_proof("u001").to_line() + swapped.to_line() + b"no proof\n")
    code, text, _ = run("verify", str(file), *trusted)
    assert code == 1
    lines = text.splitlines()
    assert lines[0] == "line 2 u009: REFUSED by check userid: the key was made for u002, not for u009"
    assert lines[1].startswith("line 3: REFUSED by check format: ")
    assert lines[2].startswith("3 keys: 1 valid, 2 refused; ")
    code, text, _ = run("verify", str(file), "--json", *trusted)
    assert code == 1
    assert [(item.get("line"), item.get("failed_check")) for item in objects(text)] == [
        (1, None),
        (2, "userid"),
        (3, "format"),
        (None, None),
    ]


def test_verifying_goes_on_from_a_line(make_proof: MakeProof, trusted: tuple[str, ...], tmp_path: Path) -> None:
    """`--start-line` judges the rest under the file's own numbers; a line that does not exist is a misuse."""
    file = tmp_path / "keys.jsonl"
    file.write_bytes(b"no proof\n" + make_proof("u001").to_line() + make_proof("u002").to_line())
    assert run("verify", str(file), "--start-line", "2", *trusted)[0] == 0
    code, _, complaint = run("verify", str(file), "--start-line", "4", *trusted)
    assert code == 2
    assert complaint == f"key verify: {file}: no key proof from line 4 on\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.jsonl", "--pcr0", "01" * 48),
        ("empty.jsonl", "--pcr0", "01" * 48),
        ("empty.jsonl",),
        ("empty.jsonl", "--pcr0", "00" * 48),
        ("empty.jsonl", "--pcr0", "01" * 47),
        ("empty.jsonl", "--pcr0", "xy" * 48),
        ("empty.jsonl", "--pcr0", "01" * 48, "--root", "empty.jsonl"),
        ("empty.jsonl", "--pcr0", "01" * 48, "--root", "missing.pem"),
    ],
)
def test_misuse_is_exit_2(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, nothing in it, no image, the image of debug mode, no digits, no root: never a success."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    code, text, complaint = run("verify", *arguments)
    assert (code, text) == (2, "")
    assert complaint


def test_a_whole_table_is_exported_page_by_page(
    tables: Tables, make_birth: MakeBirth, trusted: tuple[str, ...], tmp_path: Path
) -> None:
    """Every key once, in the order of the scan, and all of them verify."""
    for number in range(5):
        tables.put(*make_birth(f"u{number}"))
    out = tmp_path / "keys.jsonl"
    assert run("prove", "--all", "--out", str(out), "--json") == (
        0, json.dumps({"file": str(out), "keys": 5, "complaints": 0}) + "\n", "",
    )  # fmt: skip
    assert [KeyProof.from_line(line).userid for line in out.read_bytes().splitlines()] == ["u0", "u1", "u2", "u3", "u4"]
    assert tables.scans == 3
    assert run("verify", str(out), *trusted)[0] == 0


@pytest.mark.parametrize(("lines", "cut_bytes"), [(2, 0), (2, 1), (2, 500), (1, 1), (0, 0), (4, 0)])
def test_an_interrupted_export_is_continued(
    tables: Tables, make_birth: MakeBirth, tmp_path: Path, lines: int, cut_bytes: int
) -> None:
    """Whatever of the last line was written: after `--resume` the file has every key once."""
    for number in range(4):
        tables.put(*make_birth(f"u{number}"))
    out = tmp_path / "keys.jsonl"
    run("prove", "--all", "--out", str(out))
    whole = out.read_bytes()
    written = b"".join(whole.splitlines(keepends=True)[:lines])
    out.write_bytes(written[: len(written) - cut_bytes])
    code, text, complaint = run("prove", "--all", "--out", str(out), "--resume")
    assert (code, complaint) == (0, "")
    assert text.endswith(f" written to {out}\n")
    assert out.read_bytes() == whole


def test_a_file_is_never_overwritten(tables: Tables, make_birth: MakeBirth, tmp_path: Path) -> None:
    """A file that exists is left alone; one that is no export cannot be continued."""
    tables.put(*make_birth("u001"))
    out = tmp_path / "keys.jsonl"
    out.write_bytes(b"something else\n")
    assert run("prove", "u001", "--out", str(out))[0] == 2
    assert run("prove", "--all", "--out", str(out), "--resume")[0] == 2
    assert out.read_bytes() == b"something else\n"
    assert run("prove", "--all", "--out", str(tmp_path / "nothing yet"), "--resume")[0] == 0


def test_a_file_of_one_endless_line_is_no_export(tmp_path: Path) -> None:
    """It is refused, and not one byte of it is cut off."""
    path = tmp_path / "keys.jsonl"
    path.write_bytes(b"x" * 200_000)
    with path.open("r+b") as file, pytest.raises(ValueError, match="more than"):
        take_up(file)
    assert path.stat().st_size == 200_000


def test_keys_that_need_attention_are_said(tables: Tables, make_birth: MakeBirth, tmp_path: Path) -> None:
    """Exit 1, and one line for each: no certificate, another record than the certified one, an unreadable row."""
    tables.put(make_birth("u001")[0], None)
    other = make_birth("u002")[0]
    replaced = other.model_copy(update={"record": other.record.model_copy(update={"sealed_key": b"another"})})
    tables.put(replaced, make_birth("u002")[1])
    tables.put(*make_birth("u003"))
    tables.records["u004"] = {"userid": {"S": "u004"}}
    tables.put(*make_birth("u005"))
    tables.births[make_birth("u005")[0].public_key.hex()]["birth_certificate"] = {"S": "not base64!"}
    out = tmp_path / "keys.jsonl"
    code, _, complaints = run("prove", "--all", "--out", str(out))
    assert code == 1
    assert complaints.splitlines() == [
        "u001: no birth certificate is stored",
        "u002: the stored record is not the one that was certified",
        "u004: not exported: the key record has no format",
        complaints.splitlines()[3],
    ]
    assert complaints.splitlines()[3].startswith("u005: not exported: birth_certificate: ")
    assert len(out.read_bytes().splitlines()) == 3


def test_a_page_without_one_readable_row_is_passed(tables: Tables, tmp_path: Path) -> None:
    """No certificates are asked for where no key can be read."""
    tables.records["u004"] = {"userid": {"S": "u004"}}
    tables.births_stay_unprocessed = True
    assert run("prove", "--all", "--out", str(tmp_path / "keys.jsonl"))[0] == 1


def test_an_unknown_user_is_exit_1(tables: Tables, tmp_path: Path) -> None:
    """The command has its answer: there is no such key. No empty file is left."""
    del tables
    out = tmp_path / "u404.json"
    assert run("prove", "u404", "--out", str(out)) == (1, "", "u404: no key record exists for this user id\n")
    assert not out.exists()


def test_an_unreachable_table_is_exit_2(tables: Tables, make_birth: MakeBirth, tmp_path: Path) -> None:
    """A certificate that could not be read must not look like one that does not exist."""
    tables.put(*make_birth("u001"))
    tables.births_stay_unprocessed = True
    assert run("prove", "u001", "--out", str(tmp_path / "u001.json"))[0] == 2
    tables.fails = True
    assert run("prove", "--all", "--out", str(tmp_path / "keys.jsonl"))[0] == 2


def test_an_interruption_says_how_to_go_on(
    tables: Tables, make_proof: MakeProof, trusted: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends with 130, and with the option that takes the work up again."""
    del tables
    file = tmp_path / "keys.jsonl"
    file.write_bytes(make_proof("u001").to_line() * 3)

    def judge_two(*arguments: Any, **options: Any) -> Iterator[Verdict]:
        yield from islice(judge_all(*arguments, **options), 2)
        raise KeyboardInterrupt

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(key_cli, "judge_all", judge_two)
    assert run("verify", str(file), *trusted) == (130, "", "stopped; continue with --start-line 3\n")
    monkeypatch.setattr(key_cli, "_export", interrupted)
    out = str(tmp_path / "all.jsonl")
    assert run("prove", "--all", "--out", out) == (130, "", "stopped; continue with --resume\n")
    assert run("prove", "u001", "--out", out) == (130, "", "stopped\n")


@pytest.mark.parametrize(
    "arguments",
    [("prove",), ("prove", "u001", "--all", "--out", "x"), ("prove", "--all"), ("prove", "u001", "--resume")],
)
def test_contradicting_arguments_are_exit_2(tables: Tables, arguments: tuple[str, ...]) -> None:
    """One user or all of them; all of them need a file."""
    del tables
    assert run(*arguments)[0] == 2


def test_a_configuration_that_cannot_be_read_is_exit_2(tables: Tables, tmp_path: Path) -> None:
    """The complaint names the file."""
    del tables
    code, _, complaint = run("prove", "u001", "--config", str(tmp_path / "missing.toml"))
    assert code == 2
    assert "missing.toml" in complaint
