"""Keeps what this version writes, for later ones: `python -m tests.compatibility`, once, when it is released."""

from __future__ import annotations

import json
from typing import Any, Final

from coincurve import PrivateKey

from enclave.keypair import KeyPair
from enclave.nsm_codec import attestation
from enclave.sealing import seal
from local.measurements import measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.birth import BirthCertificate, birth_user_data
from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.framing import encode_frame
from protocol.jobs import (
    BatchFailure,
    BatchSignature,
    ErrorReply,
    GenerateReply,
    JobRefusedError,
    ReplyError,
    SignBatchReply,
    SignReply,
    parse_job,
)
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from protocol.messages import (
    REQUEST_TYPES,
    RESULT_TYPE,
    Attest,
    AttestResult,
    Digest,
    EnclaveFacts,
    ErrorBody,
    Generate,
    GeneratedKey,
    GenerateItem,
    GenerateItemResult,
    GenerateResult,
    Hello,
    HelloResult,
    Limits,
    Request,
    Result,
    Role,
    Scheme,
    SealedRecord,
    SetCredentials,
    SetCredentialsResult,
    Sign,
    SignatureFormat,
    SignItem,
    SignItemResult,
    SignResult,
    Status,
    StatusResult,
    encode_envelope,
)
from protocol.publickey import compressed, ethereum_address
from protocol.statement import KeyStatement, KmsKey
from protocol.version import VERSION
from tests.compatibility.corpus import save

NOW_S: Final = 1_790_000_000.25
ARN: Final = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PRIVATE_KEY: Final = bytes(range(1, 33))
"""Of nobody: 01 02 03 and so on."""

DATA_KEY: Final = bytes(range(32, 64))
PUBLIC_KEY: Final = PrivateKey(PRIVATE_KEY).public_key.format(compressed=False)[1:]
STATEMENT: Final = KeyStatement(userid="u001", public_key=PUBLIC_KEY, kms_key=KmsKey.from_arn(ARN)).to_bytes()
RECORD: Final = SealedRecord(
    statement=STATEMENT,
    sealed_key=seal(PRIVATE_KEY, DATA_KEY, bytes(12), STATEMENT),
    encrypted_data_key=b"what KMS made of the data key",
)

BODIES: Final[list[dict[str, Any]]] = [
    {"type": "generate", "userid": "u001"},
    {"type": "generate", "job_id": "g-1", "userid": "a.b_c:d@e+f=g/h-1", "reply_to": "https://queue.example/r"},
    {"type": "sign", "userid": "u001", "message": "Hello World"},
    {"type": "sign", "job_id": "s-1", "userid": "u001", "message": "ü€😀", "digest": "keccak256", "format": "der"},
    {"type": "sign", "userid": "u001", "message": "0x" + "ab" * 32, "encoding": "hex", "digest": "none"},
    {"type": "sign", "userid": "u001", "message": "AAEC", "encoding": "base64", "format": "recoverable"},
    {"type": "sign", "userid": "u001", "message": "", "digest": "eip191", "format": "recoverable"},
    {"type": "sign", "userid": "u001", "message": "m", "scheme": "schnorr", "authorization": None},
    {"type": "sign_batch", "job_id": "b-1", "items": [{"userid": "u001", "message": "m", "item_id": "i-1"}, {"x": 1}]},
]

REFUSED: Final[list[str]] = [
    "",
    "[]",
    '{"type": "generate"}',
    '{"type": "sign", "userid": "u001"}',
    '{"type": "sign", "userid": "u001", "message": "m", "more": 1}',
    '{"type": "sign", "userid": "u001", "userid": "u002", "message": "m"}',
    '{"type": "sign", "userid": "u001", "message": "m", "authorization": "x"}',
    '{"type": "sign", "userid": "u001", "message": "\\ud800"}',
    '{"type": "sign", "userid": "u001", "message": "m", "scheme": "schnorr", "format": "der"}',
]


def jobs() -> list[dict[str, Any]]:
    """Return bodies and what they mean; a refused one means its code."""
    texts = [json.dumps(body) for body in BODIES] + REFUSED
    return [{"body": text, "message_id": "message-1", "means": meaning(text)} for text in texts]


def meaning(body: str) -> dict[str, Any]:
    """Return what the parser makes of a body."""
    try:
        return parse_job(body, "message-1").model_dump(mode="json")
    except JobRefusedError as refused:
        return {"refused": refused.error.code.value}


def replies() -> list[dict[str, Any]]:
    """Return one reply of each kind."""
    error = SignerError(ErrorCode.UNKNOWN_USER)
    made = GenerateReply(
        job_id="g-1",
        userid="u001",
        publickey=PUBLIC_KEY.hex(),
        publickey_compressed=compressed(PUBLIC_KEY).hex(),
        ethereum_address=ethereum_address(PUBLIC_KEY),
        created=True,
        birth_certificate="AA==",
    )
    signed = SignReply(job_id="s-1", userid="u001", signature="ab", publickey=PUBLIC_KEY.hex())
    good = BatchSignature(index=0, item_id="i-1", userid="u001", signature="ab", publickey=PUBLIC_KEY.hex())
    bad = BatchFailure(index=1, item_id=None, userid=None, error=ReplyError.of(error))
    batch = SignBatchReply(job_id="b-1", results=(good, bad))
    return [
        {"body": reply.model_dump_json()}
        for reply in (made, signed, batch, ErrorReply.of("sign", "s-2", "u404", error))
    ]


def requests() -> list[dict[str, Any]]:
    """Return one frame of each request."""
    item = SignItem(userid="u001", record=RECORD, message=b"m", digest=Digest.EIP191)
    values: list[Request] = [
        Hello(versions=(1,), software="nitro-signer/corpus", events=True),
        SetCredentials(access_key_id="AKIA", secret_access_key="secret", session_token=None, expires_at_s=1),
        Status(),
        Attest(nonce=bytes(16)),
        Generate(items=(GenerateItem(userid="u001"), GenerateItem(userid="u002"))),
        Sign(items=(item,)),
    ]
    return [
        {
            "type": REQUEST_TYPES[type(value)],
            "body": value.model_dump(mode="python"),
            "frame": encode_frame(encode_envelope(number, REQUEST_TYPES[type(value)], value)),
        }
        for number, value in enumerate(values, 1)
    ]


def results() -> list[dict[str, Any]]:
    """Return one frame of each result, in the order of the requests, and one of an error."""
    facts = EnclaveFacts(
        role=Role.SIGNER,
        software="nitro-signer/corpus",
        instance=bytes(16),
        module_id="i-0123456789abcdef0-enc0123456789abcdef",
        pcr0=bytes(range(48)),
        config_sha256=bytes(32),
        kms_key_arn=ARN,
        processes=2,
    )
    limits = Limits(max_frame_bytes=1 << 20, max_batch_items=100, max_in_flight=128)
    error = ErrorBody.of(ErrorCode.KMS_THROTTLED)
    values: list[Result] = [
        HelloResult(version=1, limits=limits, enclave=facts, ready=True, reason=None),
        SetCredentialsResult(expires_in_s=3600),
        StatusResult(ready=True, reason=None, credentials_expire_in_s=3600, in_flight=0, counters={"signatures": 1}),
        AttestResult(document=b"document", facts=b"facts"),
        GenerateResult(
            results=(
                GenerateItemResult(key=GeneratedKey(record=RECORD, birth_document=b"document")),
                GenerateItemResult(error=error),
            )
        ),
        SignResult(results=(SignItemResult(signature=bytes(64)),)),
    ]
    return [
        {
            "body": value.model_dump(mode="python"),
            "frame": encode_frame(encode_envelope(number, RESULT_TYPE, value)),
        }
        for number, value in enumerate(values, 1)
    ]


def keys() -> list[dict[str, Any]]:
    """Return a stored key with what opens it, and its birth certificate with what verifies it."""
    authority = NitroAuthority.create(now_s=NOW_S)
    measurements = measure(b"config", b"code")
    sealed_sha256 = sealed_record_sha256(RECORD)
    exchange = attestation(user_data=birth_user_data(STATEMENT, sealed_sha256), nonce=None, public_key=None)
    document = exchange.read(StandInNsm(authority, measurements, clock=lambda: NOW_S)(exchange.request))
    certificate = BirthCertificate(statement=STATEMENT, sealed_sha256=sealed_sha256, document=document)
    record = KeyRecord.of(RECORD, kms_key=ARN, created_at="2026-09-21T14:13:20Z", job_id="g-1")
    return [
        {
            "item": record.to_item(),
            "data_key": DATA_KEY,
            "private_key": PRIVATE_KEY,
            "birth_certificate": certificate.to_base64(),
            "root_pem": authority.certificate_pem.decode(),
            "pcr0": measurements.pcr0,
        }
    ]


def signatures() -> list[dict[str, Any]]:
    """Return the signature of each form that there is, by the key of the corpus."""
    pair = KeyPair(PRIVATE_KEY)
    forms = [(digest, Scheme.ECDSA, form) for digest in Digest for form in SignatureFormat]
    forms += [(digest, Scheme.SCHNORR, SignatureFormat.COMPACT) for digest in (Digest.SHA256, Digest.NONE)]
    return [
        {
            "message": bytes(range(32)),
            "digest": digest.value,
            "scheme": scheme.value,
            "format": form.value,
            "signature": pair.sign(digest_of(bytes(range(32)), digest), scheme, form),
        }
        for digest, scheme, form in forms
    ]


def main() -> None:
    """Write the corpus of this version."""
    makers = {"jobs": jobs, "replies": replies, "requests": requests, "results": results, "keys": keys}
    for part, make in (makers | {"signatures": signatures}).items():
        save(VERSION, part, make())
    print(f"kept version {VERSION}")  # noqa: T201 - a program for people


if __name__ == "__main__":
    main()
