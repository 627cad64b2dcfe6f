"""`nitro-signer enclave` against a real enclave program with the stand-in NSM: proof, refusals, exit codes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from local.enclave import measure_enclave
from local.measured_configs import MeasuredConfigInputs, write_toml
from local.nitro_authority import NitroAuthority
from protocol.address import UnixAddress
from protocol.birth import birth_user_data
from protocol.messages import AttestResult, Role
from workers.cli import enclave as enclave_cli
from workers.cli.enclave import app
from workers.cli.output import print_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KMS_KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NONCE = "00112233445566778899aabbccddeeff"
STARTS_WITHIN_S = 60.0

runner = CliRunner()


class RunningEnclave:
    """What a test needs to know of the enclave that runs."""

    def __init__(self, folder: Path, authority: NitroAuthority) -> None:
        self.address = f"unix://{folder / 'signer.sock'}"
        self.root = folder / "root.pem"
        self.root.write_bytes(authority.certificate_pem)
        self.config = folder / "signer.toml"
        inputs = MeasuredConfigInputs(kms_key_arn=KMS_KEY_ARN, kms_ca_pem=authority.certificate_pem.decode())
        listen = UnixAddress(str(folder / "signer.sock"))
        text = write_toml(inputs, Role.SIGNER, listen=listen, kms_proxy=UnixAddress(str(folder / "kms.sock")))
        self.config.write_text(text)
        self.pcr0 = measure_enclave(self.config.read_bytes()).pcr0.hex()


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEnclave]:
    """Run a signer enclave without any KMS: it attests, but it is not ready to sign."""
    folder = tmp_path_factory.mktemp("enclave")
    authority = NitroAuthority.in_folder(folder, now_s=time.time())
    found = RunningEnclave(folder, authority)
    process = subprocess.Popen(
        [sys.executable, "-m", "local.enclave", str(found.config), "--state", str(folder)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        _wait_for_attestation(process, found)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=STARTS_WITHIN_S)


def _wait_for_attestation(process: subprocess.Popen[bytes], found: RunningEnclave) -> None:
    give_up_s = time.monotonic() + STARTS_WITHIN_S
    while runner.invoke(app, ["attest", "--address", found.address, "--root", str(found.root)]).exit_code != 0:
        assert process.poll() is None, "the enclave has ended"
        assert time.monotonic() < give_up_s, "the enclave does not attest"
        time.sleep(0.05)


def run(*arguments: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    result = runner.invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def run_attest(enclave: RunningEnclave, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Ask the enclave under its own root; return exit code and JSON object."""
    code, text, _ = run("attest", "--address", enclave.address, "--root", str(enclave.root), "--json", *arguments)
    return code, json.loads(text)


def test_a_running_enclave_proves_what_it_is(enclave: RunningEnclave) -> None:
    """Role, measured configuration, KMS key and image come bound to the caller's nonce."""
    code, facts = run_attest(enclave, "--nonce", NONCE, "--pcr0", enclave.pcr0)
    assert code == 0
    assert facts["verified"] is True
    assert facts["role"] == "signer"
    assert facts["nonce"] == NONCE
    assert facts["pcr0"] == enclave.pcr0
    assert facts["image"] == "one of the expected"
    assert facts["kms_key_arn"] == KMS_KEY_ARN
    assert len(bytes.fromhex(facts["config_sha256"])) == 32


def test_facts_come_as_text(enclave: RunningEnclave) -> None:
    """For people the facts are lines, and what was not compared is said."""
    code, text, _ = run("attest", "--address", enclave.address, "--root", str(enclave.root))
    assert code == 0
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    assert lines[0] == ["VERIFIED"]
    assert ["role", "signer"] in lines
    assert ["image", "not compared: no --pcr0 was given"] in lines


def test_without_a_nonce_each_question_has_a_new_one(enclave: RunningEnclave) -> None:
    """An old answer can never pass for a new one."""
    nonces = {run_attest(enclave)[1]["nonce"] for _ in range(2)}
    assert [len(nonce) for nonce in nonces] == [64, 64]


def test_another_image_is_refused(enclave: RunningEnclave) -> None:
    """Exit 1 with the check."""
    code, refusal = run_attest(enclave, "--pcr0", "01" * 48)
    assert code == 1
    assert (refusal["verified"], refusal["failed_check"]) == (False, "pcr")


def test_a_stand_in_is_refused_under_the_aws_root(enclave: RunningEnclave) -> None:
    """Without `--root` only hardware of AWS is believed."""
    code, text, _ = run("attest", "--address", enclave.address)
    assert code == 1
    assert "REFUSED by check root: " in text


def test_an_old_answer_and_an_answer_of_another_kind_are_refused(
    enclave: RunningEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that answers in the enclave's place has only documents of another nonce, and facts that do not fit."""
    _, first = run_attest(enclave)
    document, facts = (base64.b64decode(first[name]) for name in ("document", "facts"))

    async def replay(*_: object) -> AttestResult:
        return AttestResult(document=document, facts=facts)

    monkeypatch.setattr(enclave_cli, "_attest", replay)
    assert run_attest(enclave)[1]["failed_check"] == "nonce"
    assert run_attest(enclave, "--nonce", first["nonce"])[0] == 0
    facts = birth_user_data(facts, b"")
    assert run_attest(enclave, "--nonce", first["nonce"])[1]["failed_check"] == "user_data"


def test_the_status_tells_that_it_is_not_ready(enclave: RunningEnclave) -> None:
    """Exit 1, the reason, and the counters, as text and as JSON."""
    code, text, _ = run("status", "--address", enclave.address, "--json")
    assert code == 1
    status = json.loads(text)
    assert (status["ready"], status["reason"], status["role"]) == (False, "no_credentials", "signer")
    assert status["counters"]["signatures"] == 0
    code, text, _ = run("status", "--address", enclave.address)
    assert code == 1
    assert ["ready", "no"] in [line.split() for line in text.splitlines()]
    assert ["signatures", "0"] in [line.split() for line in text.splitlines()]


def test_the_enclaves_of_a_configuration_are_asked_one_by_one(
    enclave: RunningEnclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer is named, exit 2, and the others are asked all the same."""
    queue = "https://sqs.eu-west-1.amazonaws.com/111122223333"
    config = tmp_path / "workers.toml"
    config.write_text(
        f"""
        region = "eu-west-1"
        [sign]
        enclaves = ["unix://{tmp_path}/nobody.sock", "{enclave.address}"]
        [sign.engine]
        queue_url = "{queue}/sign"
        reply_queue_url = "{queue}/reply"
        """
    )
    monkeypatch.setenv("NITRO_SIGNER_CONFIG", str(config))
    for command, arguments in (("attest", ("--root", str(enclave.root))), ("status", ())):
        code, text, _ = run(command, "--json", *arguments)
        assert code == 2
        nobody, somebody = (json.loads(line) for line in text.splitlines())
        assert nobody["error"] == "enclave_unavailable"
        assert somebody["role"] == "signer"
    code, _, complaint = run("attest", "--address", f"unix://{tmp_path}/nobody.sock")
    assert code == 2
    assert complaint.startswith(f"enclave: unix://{tmp_path}/nobody.sock: no enclave answers at ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--address", "tcp://127.0.0.1:1"),
        ("--config", "missing.toml"),
        ("--address", "unix:///x", "--nonce", "00" * 15),
        ("--address", "unix:///x", "--nonce", "00" * 65),
        ("--address", "unix:///x", "--nonce", "xy"),
        ("--address", "unix:///x", "--pcr0", "00" * 48),
    ],
)
def test_misuse_is_exit_2(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """No address, or values out of range."""
    monkeypatch.delenv("NITRO_SIGNER_CONFIG", raising=False)
    code, text, complaint = run("attest", *arguments)
    assert (code, text) == (2, "")
    assert complaint


def test_an_enclave_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown image may say anything of itself; control characters are shown, not obeyed."""
    print_facts({"software": "\x1b[2J", "role": "signer"})
    assert capsys.readouterr().out.splitlines() == ["software  '\\x1b[2J'", "role      signer"]
