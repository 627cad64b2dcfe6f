"""Whole inputs from which mutation starts: one of each form that a target takes."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from local.kms.envelope import EnvelopeRecipient
from local.measurements import measure
from local.nsm import StandInNsm
from protocol.birth import BirthCertificate, birth_user_data
from protocol.cbor import decode, encode, encode_canonical
from protocol.framing import encode_frame
from protocol.keyproof import KeyProof
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from protocol.live import LiveFacts
from protocol.messages import (
    AttestResult,
    ErrorBody,
    Events,
    GeneratedKey,
    GenerateItemResult,
    GenerateResult,
    Role,
    SealedRecord,
    SetCredentialsResult,
    SignItemResult,
    SignResult,
    StatusResult,
    encode_envelope,
)
from protocol.statement import KeyStatement, KmsKey
from tests.fuzz.parts import (
    ENVELOPE_KEY,
    FUZZ_AUTHORITY,
    HELLO,
    HELLO_RESULT,
    RECORD,
    REQUESTS_IN_FLIGHT,
    hello_frame,
    joined,
)
from tests.protocol.chains import CRITICAL, OPTIONAL, authority, good_plans, make

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from protocol.model import StrictModel

_NOW_S = 1_790_000_000.0
_KMS_KEY = KmsKey(partition="aws", account="0" * 12, key_id="k")
_REQUEST_TYPES = ("credentials", "status", "attest", "generate", "sign")
_RESULTS: Sequence[StrictModel] = (
    SetCredentialsResult(expires_in_s=1),
    StatusResult(ready=True, reason=None, credentials_expire_in_s=None, in_flight=1, counters={"a": 1}),
    AttestResult(document=b"d", facts=b"f"),
    GenerateResult(results=(GenerateItemResult(key=GeneratedKey(record=RECORD, birth_document=b"b")),)),
    SignResult(results=(SignItemResult(signature=bytes(64)),)),
)


def seeds(name: str) -> Sequence[bytes]:
    """Return the seeds of a target."""
    return _SEEDS[name]()


def _frames() -> list[bytes]:
    bodies = _messages()
    return [hello_frame(), *(encode_frame(body) for body in bodies), b"".join(map(encode_frame, bodies[2:6]))]


def _messages() -> list[bytes]:
    """Every request and every answer, with the ids that the targets' sessions wait for."""
    requests = [
        encode_envelope(number, kind, request)
        for number, (kind, request) in enumerate(zip(_REQUEST_TYPES, REQUESTS_IN_FLIGHT, strict=True), start=2)
    ]
    answers = [encode_envelope(number, "result", result) for number, result in enumerate(_RESULTS, start=2)]
    error = encode_envelope(3, "error", ErrorBody(code="internal", retryable=True))
    events = encode_envelope(0, "events", Events(events=({"event": "x", "count": 1},), dropped=1))
    fatal = encode_envelope(0, "error", ErrorBody(code="bad_frame", retryable=False))
    hello, hello_result = encode_envelope(1, "hello", HELLO), encode_envelope(1, "result", HELLO_RESULT)
    return [hello, hello_result, *requests, *answers, error, events, fatal]


def _envelopes() -> list[bytes]:
    """As KMS writes it, with one segment and with more, and the same in DER."""
    spki = ENVELOPE_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    recipient = EnvelopeRecipient.from_spki(spki)
    short = recipient.seal(bytes(range(48)))
    return [short, recipient.seal(bytes(1024)), cms.ContentInfo.load(short).dump(force=True)]


def _documents() -> list[bytes]:
    return [_document(), b"\xd2" + _document(nonce=bytes(16), public_key=b"k")]


def _document(**fields: bytes) -> bytes:
    nsm = StandInNsm(FUZZ_AUTHORITY, measure(b"", b""), clock=lambda: _NOW_S)
    request = {"Attestation": {"user_data": b"u", "nonce": None, "public_key": None} | fields}
    document: bytes = decode(nsm(encode(request)))["Attestation"]["document"]
    return document


def _chains() -> list[bytes]:
    """A good chain, and some with what real ones do not have: other keys, other extensions."""
    good = good_plans()
    curve = dataclasses.replace(good[4], key=ec.generate_private_key(ec.SECP256R1()))
    modulus = dataclasses.replace(good[4], key=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    extended = dataclasses.replace(good[4], extensions=(*good[4].extensions, *_EXTENSIONS))
    chains = [good, [*good[:4], curve], [*good[:4], modulus], [*good[:4], extended], [authority("root", None), good[4]]]
    return [joined(make(plans)) for plans in chains]


_EXTENSIONS = (
    (x509.SubjectAlternativeName([x509.DNSName("a.example"), x509.RFC822Name("a@a.example")]), OPTIONAL),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), OPTIONAL),
    (x509.NameConstraints([x509.DNSName("a.example")], [x509.DNSName("b.example")]), CRITICAL),
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), OPTIONAL),
)


def _responses() -> list[bytes]:
    nsm = StandInNsm(FUZZ_AUTHORITY, measure(b"", b""), clock=lambda: _NOW_S)
    requests: list[Any] = ["DescribeNSM", "GetRandom", {"DescribePCR": {"index": 0}}, {"LockPCR": {"index": 16}}]
    refused = {"LockPCR": {"index": 0}}
    attestation = {"Attestation": {"user_data": None, "nonce": None, "public_key": None}}
    return [nsm(encode(request)) for request in (*requests, refused, attestation)]


def _values() -> list[bytes]:
    plain = encode({"a": [1, b"x", None, 1.5, "\u00e9", -1, True], "b": {"c": "d"}})
    return [plain, bytes.fromhex("bf616101ff"), _statement(), _facts(), encode({1: {0: 1 << 63}})]


def _statement() -> bytes:
    return KeyStatement(userid="u", public_key=bytes(64), kms_key=_KMS_KEY).to_bytes()


def _facts() -> bytes:
    facts = LiveFacts(role=Role.SIGNER, software="s", config_sha256=bytes(32), kms_key_arn="a", instance=bytes(16))
    return facts.to_bytes()


def _records() -> list[bytes]:
    """An item of the key table, a certificate as it stands in the other table, and a key proof."""
    record = SealedRecord(statement=_statement(), sealed_key=bytes(60), encrypted_data_key=bytes(100))
    item = KeyRecord.of(record, kms_key="a", created_at="2026-01-01T00:00:00Z", job_id="j")
    sealed_sha256 = sealed_record_sha256(record)
    document = _document(user_data=birth_user_data(record.statement, sealed_sha256))
    certificate = BirthCertificate(statement=record.statement, sealed_sha256=sealed_sha256, document=document)
    text = certificate.to_base64()
    broken = base64.b64encode(encode_canonical({"type": "nitro-signer/birth/1"}))
    proofs = [KeyProof.of(item, None).to_line(), KeyProof.of(item, text).to_line()]
    return [json.dumps(item.to_item()).encode(), text.encode(), broken, *proofs]


def _jobs() -> list[bytes]:
    sign = {"type": "sign", "job_id": "s", "userid": "u", "message": "0x00ff", "encoding": "hex"}
    form = {"digest": "none", "scheme": "schnorr", "format": "compact", "message": "00" * 32, "reply_to": "q"}
    batch = {"type": "sign_batch", "items": [{"userid": "u", "message": "m", "item_id": "1"}, {"userid": 1}]}
    jobs = [sign, sign | form, sign | {"encoding": "base64", "message": "AA=="}, batch, {"type": "generate"}]
    return [*(json.dumps(job).encode() for job in jobs), b'{"a": "\\ud800", "a": [1e9, NaN]}', b"[" * 100]


_SEEDS: Mapping[str, Callable[[], Sequence[bytes]]] = {
    "frames": _frames,
    "messages": _messages,
    "cbor": _values,
    "attestation": _documents,
    "chain": _chains,
    "cms": _envelopes,
    "nsm": _responses,
    "records": _records,
    "jobs": _jobs,
}
