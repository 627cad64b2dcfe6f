"""What the targets stand on: sessions in each state, one key, one root, certificates behind their lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from local.nitro_authority import NitroAuthority
from protocol.cbor import encode
from protocol.framing import encode_frame
from protocol.messages import (
    Attest,
    EnclaveFacts,
    Generate,
    GenerateItem,
    Hello,
    HelloResult,
    Limits,
    Role,
    SealedRecord,
    SetCredentials,
    Sign,
    SignItem,
    Status,
    encode_envelope,
)
from protocol.session import ClientSession

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from protocol.messages import Request

ENVELOPE_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
FUZZ_AUTHORITY: Final = NitroAuthority.create(now_s=1_790_000_000)
FUZZ_ROOT: Final = FUZZ_AUTHORITY.trust_root

RECORD: Final = SealedRecord(statement=b"s", sealed_key=b"k", encrypted_data_key=b"d")
REQUESTS_IN_FLIGHT: Final[Sequence[Request]] = (
    SetCredentials(access_key_id="A", secret_access_key="S", session_token="T", expires_at_s=1),
    Status(),
    Attest(nonce=bytes(16)),
    Generate(items=(GenerateItem(userid="u"),)),
    Sign(items=(SignItem(userid="u", record=RECORD, message=b"m"),)),
)
"""What a greeted client waits for, with the ids 2 to 6."""

HELLO: Final = Hello(versions=(1,), software="fuzz")
HELLO_RESULT: Final = HelloResult(
    version=1,
    limits=Limits(max_frame_bytes=1 << 16, max_batch_items=10, max_in_flight=8),
    enclave=EnclaveFacts(
        role=Role.SIGNER,
        software="x",
        instance=bytes(16),
        module_id="m",
        pcr0=bytes(48),
        config_sha256=bytes(32),
        kms_key_arn="a",
        processes=1,
    ),
    ready=True,
    reason=None,
)
_LENGTH_BYTES: Final = 2


def hello_frame() -> bytes:
    """Return the first frame of a parent."""
    return encode_frame(encode({"v": 1, "id": 1, "type": "hello", "body": {"versions": [1], "software": "f"}}))


def greeting_client() -> ClientSession:
    """Return a parent's end that waits for the answer to its hello."""
    client = ClientSession()
    client.start(HELLO)
    return client


def greeted_client() -> ClientSession:
    """Return a parent's end with one request of each kind in flight."""
    client = greeting_client()
    for _ in client.receive_data(encode_frame(encode_envelope(1, "result", HELLO_RESULT))):
        pass
    for request in REQUESTS_IN_FLIGHT:
        client.send(request)
    return client


def joined(parts: Iterable[bytes]) -> bytes:
    """Return parts in one, each behind its length."""
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts)


def parted(data: bytes) -> list[bytes]:
    """Return the parts of any bytes; at least one, which may be empty."""
    parts: list[bytes] = []
    while data:
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        parts.append(data[_LENGTH_BYTES:end])
        data = data[end:]
    return parts or [b""]
