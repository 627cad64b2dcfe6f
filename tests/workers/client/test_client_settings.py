"""Settings of a client: complete, checked, and without any default for whom to trust."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from protocol.attestation import AWS_NITRO_ROOT_G1
from protocol.model import describe_validation_error
from tests.workers.client.double import OURS, PCR0, authority, key_of, settings
from workers.client import BirthTrust, ClientConfigError, load_client_settings

ROOT = Path(__file__).resolve().parents[3]
QUEUES = "https://sqs.eu-central-1.amazonaws.com/111122223333"
FILE = f"""
region = "eu-central-1"
generate_queue_url = "{QUEUES}/nitro-signer-generate"
sign_queue_url = "{QUEUES}/nitro-signer-sign"
[trust]
root = "aws-nitro-g1"
generator_pcr0 = ["{PCR0.hex()}"]
[pinned_keys]
u1 = "{key_of("u1").public_key.hex()}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good file."""
    path = tmp_path / "client.toml"
    path.write_text(FILE)
    return path


def test_a_file_is_read(file: Path) -> None:
    """Hexadecimal digits become bytes; the root of AWS is named, never assumed."""
    read = load_client_settings(file)
    assert read.trust == BirthTrust(root=AWS_NITRO_ROOT_G1, generator_pcr0=frozenset({PCR0}))
    assert read.pinned_keys == {"u1": key_of("u1").public_key}
    assert (read.region, read.reply_queue_url, read.deadline_s) == ("eu-central-1", None, 60.0)


def test_a_root_of_ones_own_is_a_file_beside(file: Path) -> None:
    """As a local stack has it."""
    (file.parent / "root.pem").write_bytes(authority(OURS).certificate_pem)
    file.write_text(FILE.replace("aws-nitro-g1", "root.pem"))
    trust = load_client_settings(file).trust
    assert trust is not None
    assert trust.root == authority(OURS).trust_root


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('root = "aws-nitro-g1"', "", "trust.root: field is missing"),
        (f'generator_pcr0 = ["{PCR0.hex()}"]', "", "trust.generator_pcr0: field is missing"),
        (f'["{PCR0.hex()}"]', "[]", "trust.generator_pcr0: Frozenset should have at least 1 item"),
        (PCR0.hex(), "00" * 48, "trust.generator_pcr0: all zeros is what an enclave in debug mode shows"),
        (PCR0.hex(), "07", "trust.generator_pcr0: a PCR0 has 48 bytes"),
        (PCR0.hex(), "0x", "trust.generator_pcr0: hexadecimal digits in pairs"),
        ("aws-nitro-g1", "missing.pem", "trust.root: aws-nitro-g1 or a PEM file;"),
        ("aws-nitro-g1", "client.toml", "is not a PEM file with one certificate"),
        ('root = "aws-nitro-g1"', "root = 7", "trust.root: "),
        ("[trust]", "[thrust]", "thrust: unknown field"),
        ("nitro-signer-sign", "nitro-signer-generate", "different queues"),
        (f"{QUEUES}/nitro-signer-sign", "nitro-signer-sign", "the URL of a queue"),
        ("[trust]", f'reply_queue_url = "{QUEUES}/nitro-signer-reply"\n[trust]', "a queue of this client's own, named"),
        ("[trust]", f'reply_queue_url = "{QUEUES}/nitro-signer-reply-"\n[trust]', "nitro-signer-reply-SOMETHING"),
        ("u1 =", "'u 1' =", "pinned_keys.u 1"),
        (key_of("u1").public_key.hex(), "00" * 64, "pinned key of u1: not a point of secp256k1"),
        (key_of("u1").public_key.hex(), "00", "pinned key of u1: x || y, 64 bytes, not 1"),
        ("[trust]", "deadline_s = 0\n[trust]", "deadline_s: Input should be greater than 0"),
        ("[trust]", "[trust", "not TOML"),
        ("[trust]", "#" * 2**20 + "\n[trust]", "longer than"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(file: Path, old: str, new: str, problem: str) -> None:
    """Before any queue is touched."""
    file.write_text(FILE.replace(old, new))
    with pytest.raises(ClientConfigError) as caught:
        load_client_settings(file)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Says so."""
    with pytest.raises(ClientConfigError, match="No such file"):
        load_client_settings(tmp_path / "missing.toml")


def test_a_queue_of_ones_own_has_a_name_of_its_own() -> None:
    """The workers' shared reply queue cannot be named by mistake: a client drops what it does not know."""
    assert settings(reply_queue_url=f"{QUEUES}/nitro-signer-reply-billing").reply_queue_url is not None
    with pytest.raises(ValidationError) as caught:
        settings(reply_queue_url=f"{QUEUES}/nitro-signer-reply")
    assert "of this client's own" in describe_validation_error(caught.value)


def test_the_client_is_importable_alone() -> None:
    """Neither the enclave's code, nor the stand-ins, nor the command line come with it."""
    code = (
        "import sys, workers.client; packages = {name.split('.')[0] for name in sys.modules}; "
        "sys.exit(bool(packages & {'enclave', 'local', 'typer'}) or 'workers.cli' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
