"""Jobs sent by plain boto3 and the AWS CLI; their replies judged by openssl, `ecdsa` and eth-account."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import ecdsa
import pytest
from ecdsa.util import sigdecode_der, sigdecode_string

from local.stack_facts import StackFacts
from tests.stack.bitcoin import ALL, Input, SignedTransaction, double_sha256, pay_to_public_key_hash
from tests.stack.harness import ROOT, clean_environ

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.harness import Client

pytestmark = pytest.mark.stack

SPKI_HEAD = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")
"""SubjectPublicKeyInfo of an uncompressed secp256k1 point, up to the point (RFC 5480)."""

N = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


class User:
    """A key of the service, and what its owner sends for."""

    def __init__(self, client: Client, userid: str) -> None:
        self._client = client
        self._userid = userid
        self.born = client.ask("generate", {"type": "generate", "userid": userid})
        self.point = b"\x04" + bytes.fromhex(self.born["publickey"])

    def sign(self, message: str, **form: str) -> bytes:
        """Return the signature of a reply."""
        reply = self._client.ask("sign", {"type": "sign", "userid": self._userid, "message": message, **form})
        assert (reply["status"], reply["publickey"]) == ("ok", self.born["publickey"])
        return bytes.fromhex(reply["signature"])

    def sign_digest(self, digest: bytes, signature_format: str) -> bytes:
        """Have 32 bytes signed that somebody else has hashed."""
        return self.sign(digest.hex(), encoding="hex", digest="none", format=signature_format)


@pytest.fixture
def user(client: Client, request: pytest.FixtureRequest) -> User:
    """A user of this test's own."""
    return User(client, f"interop-{request.node.name}"[:128].replace("[", ".").replace("]", ""))


def test_openssl_verifies_a_der_signature(user: User, tmp_path: Path) -> None:
    """And refuses it for another message."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine")
    (tmp_path / "signature.der").write_bytes(user.sign("Hello World", format="der"))
    (tmp_path / "key.der").write_bytes(SPKI_HEAD + user.point)

    def verdict(message: bytes) -> str:
        (tmp_path / "message").write_bytes(message)
        command = ["dgst", "-sha256", "-verify", "key.der", "-keyform", "DER", "-signature", "signature.der", "message"]
        done = subprocess.run([openssl, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    assert verdict(b"Hello World") == "Verified OK"
    assert verdict(b"Hello Mars") == "Verification failure"


@pytest.mark.parametrize(("form", "decode"), [("compact", sigdecode_string), ("der", sigdecode_der)])
def test_the_ecdsa_package_verifies_signatures(user: User, form: str, decode: Any) -> None:
    """In both of the forms that it reads."""
    key = ecdsa.VerifyingKey.from_string(user.point, curve=ecdsa.SECP256k1)
    signature = user.sign("Hello World", format=form)
    assert key.verify(signature, b"Hello World", hashfunc=hashlib.sha256, sigdecode=decode)
    with pytest.raises(ecdsa.BadSignatureError):
        key.verify(signature, b"Hello Mars", hashfunc=hashlib.sha256, sigdecode=decode)


def eth_account() -> Any:
    """Return the package; skip loudly where it is not installed."""
    return pytest.importorskip("eth_account", reason="eth-account is not installed: no Ethereum tool judged this")


def test_eth_account_recovers_the_address_of_a_personal_message(user: User) -> None:
    """`personal_sign` (EIP-191): the address that comes out is the one of the generate reply."""
    tools = eth_account()
    signature = user.sign("Hello Ethereum", digest="eip191", format="recoverable")
    message = importlib.import_module("eth_account.messages").encode_defunct(text="Hello Ethereum")
    for v in (signature[64], 27 + signature[64]):
        found = tools.Account.recover_message(message, signature=signature[:64] + bytes([v]))
        assert found == user.born["ethereum_address"]


CHAIN_ID = 1
TRANSFER = {
    "nonce": 7,
    "gas": 21_000,
    "to": "0x000000000000000000000000000000000000dEaD",
    "value": 10**18,
    "data": b"",
    "chainId": CHAIN_ID,
}


def test_eth_account_accepts_a_legacy_transaction(user: User) -> None:
    """Hashed by eth-account (EIP-155), signed here, sent as raw bytes: its sender is our address."""
    tools = eth_account()
    legacy = importlib.import_module("eth_account._utils.legacy_transactions")
    unsigned = legacy.serializable_unsigned_transaction_from_dict({**TRANSFER, "gasPrice": 10**10})
    signature = user.sign_digest(unsigned.hash(), "recoverable")
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:64]))
    raw = legacy.encode_transaction(unsigned, vrs=(35 + 2 * CHAIN_ID + signature[64], r, s))
    assert tools.Account.recover_transaction(raw) == user.born["ethereum_address"]


def test_eth_account_accepts_an_eip_1559_transaction(user: User) -> None:
    """The same with a dynamic fee."""
    tools = eth_account()
    typed = importlib.import_module("eth_account.typed_transactions").TypedTransaction
    fields = {**TRANSFER, "type": 2, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9, "accessList": []}
    signature = user.sign_digest(typed.from_dict(fields).hash(), "recoverable")
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:64]))
    raw = typed.from_dict({**fields, "v": signature[64], "r": r, "s": s}).encode()
    assert tools.Account.recover_transaction(raw) == user.born["ethereum_address"]


def test_a_bitcoin_input_is_signed(user: User) -> None:
    """The message is the double SHA-256 itself (digest none): DER with low s, as a node's policy wants it (BIP-146)."""
    public_key = bytes.fromhex(user.born["publickey_compressed"])
    witness_script = b"\x21" + public_key + b"\xac"  # <public key> OP_CHECKSIG, in an output that pays to its hash
    outputs = struct.pack("<q", 90_000) + b"\x16\x00\x14" + bytes(20)
    spent = Input(double_sha256(b"a made-up transaction") + bytes(4), struct.pack("<I", 0xFFFFFFFD), [])
    sighash = SignedTransaction([spent], outputs, bytes(4)).segwit_hash(0, witness_script, 100_000)
    signature = user.sign_digest(sighash, "der")
    key = ecdsa.VerifyingKey.from_string(public_key, curve=ecdsa.SECP256k1)
    assert key.verify_digest(signature, sighash, sigdecode=sigdecode_der)
    r, s = sigdecode_der(signature, N)
    assert s <= N // 2
    assert signature == ecdsa.util.sigencode_der(r, s, N)


def example(name: str, client: Client, userid: str) -> dict[str, str]:
    """Run an example; return what it printed, by its first word."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", client.facts["client_config"], userid],
        cwd=ROOT,
        env=clean_environ() | {"PYTHONPATH": str(ROOT)} | StackFacts(**client.facts).to_environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def test_the_bitcoin_example_spends_two_outputs(client: Client) -> None:
    """Hashed again from the BIPs alone, both inputs of its transaction verify with the `ecdsa` package."""
    printed = example("bitcoin", client, "interop-bitcoin")
    transaction = SignedTransaction.parse(bytes.fromhex(printed["raw"]))
    (segwit, public_key), (legacy, same_key) = (spent.pushes for spent in transaction.inputs)
    assert public_key == same_key
    key = ecdsa.VerifyingKey.from_string(public_key, curve=ecdsa.SECP256k1)
    script = pay_to_public_key_hash(public_key)
    hashes = transaction.segwit_hash(0, script, 100_000), transaction.legacy_hash(1, script, 1)
    for signature, sighash in zip((segwit, legacy), hashes, strict=True):
        assert signature[-1] == ALL
        assert key.verify_digest(signature[:-1], sighash, sigdecode=sigdecode_der)
        assert sigdecode_der(signature[:-1], N)[1] <= N // 2
    with pytest.raises(ecdsa.BadSignatureError):
        key.verify_digest(segwit[:-1], hashes[1], sigdecode=sigdecode_der)


def test_the_aws_cli_sends_a_job(client: Client) -> None:
    """Nothing of ours is needed to ask."""
    program = ROOT / ".venv-awscli" / "bin" / "aws"
    if not program.exists():
        pytest.skip("no AWS CLI: `make test` installs it")
    environ = clean_environ() | StackFacts(**client.facts).to_environ()
    body = json.dumps({"type": "generate", "userid": "interop-aws-cli"})
    command = ["--endpoint-url", environ["AWS_ENDPOINT_URL"], "sqs", "send-message", "--message-body", body]
    done = subprocess.run(
        [program, *command, "--queue-url", environ["GENERATE_QUEUE_URL"]],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    reply = client.replies(1, job_id=json.loads(done.stdout)["MessageId"])[0]
    assert (reply["status"], reply["userid"]) == ("ok", "interop-aws-cli")
