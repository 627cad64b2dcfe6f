"""What is fuzzed: each target takes any bytes and lets out nothing but the errors that it declares."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enclave.cms import EnvelopeError, open_envelope
from local.kms.envelope import EnvelopeRecipient
from local.measurements import measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.attestation import AttestationError, parse_document
from protocol.birth import BirthCertificate, BirthCertificateError
from protocol.cbor import CborError, decode, decode_canonical, encode
from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.framing import encode_frame
from protocol.jobs import JobRefusedError, SignJob, parse_job
from protocol.messages import Hello
from protocol.session import ClientSession, ServerSession
from protocol.statement import KeyStatement, StatementError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MESSAGE_ID: Final = "0f7e5ee4-67d1-4d8b-9a42-6f6b5d1c1a11"


def fuzz_frames(data: bytes) -> None:
    """Bytes at both ends of a connection, before and after the hello."""
    for prelude in (b"", _hello_frame()):
        try:
            for _ in ServerSession(1 << 16).receive_data(prelude + data):
                pass
        except RemoteProtocolError:
            pass
        client = ClientSession(1 << 16)
        client.start(Hello(versions=(1,), software="fuzz"))
        try:
            for _ in client.receive_data(data):
                pass
        except RemoteProtocolError:
            pass


def fuzz_cbor(data: bytes) -> None:
    """One strict value; what is canonical comes back the same."""
    try:
        decode(data, allow_indefinite=True)
        decode_canonical(data)
    except CborError:
        pass
    try:
        statement = KeyStatement.from_bytes(data)
    except StatementError:
        return
    if statement.to_bytes() != data:
        raise AssertionError("two encodings of one key statement")


def fuzz_attestation(data: bytes) -> None:
    """A document, and a birth certificate."""
    with contextlib.suppress(AttestationError):
        parse_document(data)
    with contextlib.suppress(BirthCertificateError):
        BirthCertificate.from_base64(data.decode("latin-1"))


def fuzz_cms(data: bytes) -> None:
    """An envelope for a key that it may well fit."""
    with contextlib.suppress(EnvelopeError):
        open_envelope(data, _key())


def fuzz_jobs(data: bytes) -> None:
    """The body of a queue message, as any text, surrogates included."""
    try:
        job = parse_job(data.decode("utf-8", "surrogateescape"), MESSAGE_ID)
    except JobRefusedError as refused:
        if refused.error.code is not ErrorCode.BAD_REQUEST or len(refused.error.detail) > 2000:
            raise AssertionError("a refusal that is not short and bad_request") from refused
        refused.error.detail.encode()
        return
    if isinstance(job, SignJob):
        job.message_bytes  # noqa: B018 - a job that was taken can be read


def _hello_frame() -> bytes:
    return encode_frame(encode({"v": 1, "id": 1, "type": "hello", "body": {"versions": [1], "software": "f"}}))


@functools.cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _envelope() -> bytes:
    spki = _key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return EnvelopeRecipient.from_spki(spki).seal(bytes(range(48)))


def _document() -> bytes:
    nsm = StandInNsm(NitroAuthority.create(now_s=1_790_000_000), measure(b"", b""), clock=lambda: 1_790_000_000.0)
    request = {"Attestation": {"user_data": b"u", "nonce": None, "public_key": None}}
    document: bytes = decode(nsm(encode(request)))["Attestation"]["document"]
    return document


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "frames": fuzz_frames,
    "cbor": fuzz_cbor,
    "attestation": fuzz_attestation,
    "cms": fuzz_cms,
    "jobs": fuzz_jobs,
}


def seeds(name: str) -> Sequence[bytes]:
    """Return whole inputs of a target, from which mutation starts."""
    match name:
        case "frames":
            status = encode({"v": 1, "id": 2, "type": "status", "body": {}})
            record = {"statement": b"s", "sealed_key": b"k", "encrypted_data_key": b"d"}
            item = {"userid": "u", "record": record, "message": b"m", "digest": "sha256"}
            sign = encode({"v": 1, "id": 3, "type": "sign", "body": {"items": [item]}})
            error = encode({"v": 1, "id": 1, "type": "error", "body": {"code": "internal", "retryable": True}})
            return [_hello_frame(), encode_frame(status), encode_frame(sign), encode_frame(error)]
        case "cms":
            return [_envelope()]
        case "attestation":
            return [_document()]
        case "jobs":
            sign_job = b'{"type": "sign", "job_id": "s", "userid": "u", "message": "0x00ff", "encoding": "hex"}'
            return [sign_job, b'{"type": "generate", "userid": "u"}', b'{"a": "\\ud800", "a": [1e9, NaN]}']
        case _:
            return [encode({"a": [1, b"x", None, 1.5], "b": {"c": "d"}}), bytes.fromhex("bf616101ff")]
