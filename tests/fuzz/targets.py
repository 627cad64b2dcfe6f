"""What is fuzzed: each target takes any bytes and lets out nothing but the errors that it declares."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Final

from enclave import nsm_codec
from enclave.cms import EnvelopeError, open_envelope
from enclave.nsm_codec import NsmError
from protocol.attestation import (
    ANYTHING,
    AtOwnTime,
    AttestationError,
    DocumentPolicy,
    TrustRoot,
    parse_document,
)
from protocol.attestation.chain import verify_chain
from protocol.birth import BirthCertificate, BirthCertificateError
from protocol.birth_verification import BirthRefusedError, verify_birth
from protocol.cbor import CborError, decode, decode_canonical
from protocol.errors import ErrorCode, RemoteProtocolError, SignerError
from protocol.forms import check_form, digest_of
from protocol.framing import encode_frame
from protocol.jobs import JobRefusedError, SignJob, parse_job
from protocol.keyproof import KeyProof, KeyProofError
from protocol.keyrecord import KeyRecord
from protocol.live import LiveFacts, LiveFactsError
from protocol.messages import Sign, SignItem
from protocol.session import ClientSession, Received, ServerSession
from protocol.statement import KeyStatement, StatementError
from tests.fuzz.parts import ENVELOPE_KEY, FUZZ_ROOT, greeted_client, greeting_client, hello_frame, parted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MESSAGE_ID: Final = "0f7e5ee4-67d1-4d8b-9a42-6f6b5d1c1a11"
ANY_DOCUMENT: Final = DocumentPolicy(
    pcrs=ANYTHING, nonce=ANYTHING, public_key=ANYTHING, user_data=ANYTHING, allow_debug=True
)
_NSM_EXCHANGES: Final = (
    nsm_codec.describe_nsm(),
    nsm_codec.describe_pcr(0),
    nsm_codec.lock_pcr(16),
    nsm_codec.get_random(),
    nsm_codec.attestation(user_data=None, nonce=None, public_key=None),
)


def fuzz_frames(data: bytes) -> None:
    """Bytes at both ends of a connection, before and after the hello."""
    for server_prelude in (b"", hello_frame()):
        _serve(ServerSession(1 << 16), server_prelude + data)
    for client in (greeting_client(), greeted_client()):
        _receive(client, data)


def fuzz_messages(data: bytes) -> None:
    """The body of one frame, at both ends: what `frames` rarely reaches behind a length that must be right."""
    frame = encode_frame(data or b"\0")
    _serve(ServerSession(), hello_frame() + frame)
    _serve(ServerSession(), frame)
    _receive(greeted_client(), frame)


def _serve(session: ServerSession, data: bytes) -> None:
    """Receive, and take the forms and statements of sign items as the signer does."""
    with contextlib.suppress(RemoteProtocolError):
        for event in session.receive_data(data):
            if isinstance(event, Received) and isinstance(event.request, Sign):
                for item in event.request.items:
                    if isinstance(item, SignItem):
                        _take_item(item)


def _take_item(item: SignItem) -> None:
    with contextlib.suppress(StatementError):
        KeyStatement.from_bytes(item.record.statement)
    with contextlib.suppress(SignerError):
        check_form(item.message, item.digest, item.scheme, item.format)
        if len(digest_of(item.message, item.digest)) != 32:
            raise AssertionError("a form that exists has a digest of another length")


def _receive(client: ClientSession, data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        for _ in client.receive_data(data):
            pass


def fuzz_cbor(data: bytes) -> None:
    """One strict value; what is canonical comes back the same."""
    try:
        decode(data, allow_indefinite=True)
        decode_canonical(data)
    except CborError:
        pass
    with contextlib.suppress(LiveFactsError):
        LiveFacts.from_bytes(data)
    try:
        statement = KeyStatement.from_bytes(data)
    except StatementError:
        return
    if statement.to_bytes() != data:
        raise AssertionError("two encodings of one key statement")


def fuzz_attestation(data: bytes) -> None:
    """A document, verified under whatever root it brings: only then are damaged certificates and signatures reached."""
    with contextlib.suppress(AttestationError):
        document = parse_document(data)
        root = TrustRoot(hashlib.sha256(document.cabundle[0]).digest())
        document.verify(root, ANY_DOCUMENT, AtOwnTime())


def fuzz_chain(data: bytes) -> None:
    """Certificates, each behind its length: root, then the bundle, then the leaf."""
    *cabundle, leaf = parted(data)
    if not cabundle:
        return
    with contextlib.suppress(AttestationError):
        verify_chain(TrustRoot(hashlib.sha256(cabundle[0]).digest()), leaf, tuple(cabundle))


def fuzz_cms(data: bytes) -> None:
    """An envelope for a key that it may well fit."""
    with contextlib.suppress(EnvelopeError):
        open_envelope(data, ENVELOPE_KEY)


def fuzz_nsm(data: bytes) -> None:
    """What a module answers, to every request."""
    for exchange in _NSM_EXCHANGES:
        with contextlib.suppress(NsmError):
            exchange.read(data)


def fuzz_records(data: bytes) -> None:
    """What lies in the tables or comes as a file: key record, birth certificate, key proof."""
    text = data.decode("latin-1")
    with contextlib.suppress(BirthCertificateError, BirthRefusedError):
        verify_birth(BirthCertificate.from_base64(text), root=FUZZ_ROOT, pcr0=[bytes(48)], userid=None, public_key=None)
    with contextlib.suppress(KeyProofError, BirthRefusedError):
        KeyProof.from_line(data).verify(root=FUZZ_ROOT, pcr0=[bytes(48)])
    with contextlib.suppress(ValueError, RecursionError):
        item = json.loads(text)
        if isinstance(item, dict):
            attributes = {name: value for name, value in item.items() if isinstance(value, str)}
            with contextlib.suppress(SignerError):
                KeyRecord.from_item(attributes)


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
        digest_of(job.message_bytes, job.digest)  # a job that was taken can be read


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "frames": fuzz_frames,
    "messages": fuzz_messages,
    "cbor": fuzz_cbor,
    "attestation": fuzz_attestation,
    "chain": fuzz_chain,
    "cms": fuzz_cms,
    "nsm": fuzz_nsm,
    "records": fuzz_records,
    "jobs": fuzz_jobs,
}
