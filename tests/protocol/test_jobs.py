"""Jobs: every bad body is refused with as much of its id as can be known; good ones are what they say."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, SignerError
from protocol.jobs import (
    REPLY,
    ErrorReply,
    GenerateJob,
    GenerateReply,
    JobRefusedError,
    MessageEncoding,
    SignJob,
    SignReply,
    parse_job,
)
from protocol.messages import MAX_MESSAGE_BYTES, Digest, Scheme, SignatureFormat

MESSAGE_ID = "0f7e5ee4-67d1-4d8b-9a42-6f6b5d1c1a11"
GENERATE = {"type": "generate", "job_id": "g-1", "userid": "u001"}
SIGN = {"type": "sign", "job_id": "s-1", "userid": "u001", "message": "Hello World"}


def refused(body: str) -> JobRefusedError:
    """Return how a body is refused, and check what every refusal keeps."""
    with pytest.raises(JobRefusedError) as error:
        parse_job(body, MESSAGE_ID)
    refusal = error.value
    assert refusal.error.code is ErrorCode.BAD_REQUEST
    reply = ErrorReply.of(refusal.job_type, refusal.job_id, refusal.userid, refusal.error)
    text = reply.model_dump_json()
    assert len(text.encode()) < 4096
    assert REPLY.validate_json(text) == reply
    return refusal


def test_the_examples_of_the_format() -> None:
    """The three jobs that the documentation shows."""
    assert parse_job(json.dumps(GENERATE), MESSAGE_ID) == GenerateJob(type="generate", job_id="g-1", userid="u001")
    job = parse_job(json.dumps(SIGN), MESSAGE_ID)
    assert isinstance(job, SignJob)
    assert (job.message_bytes, job.encoding) == (b"Hello World", MessageEncoding.UTF8)
    assert (job.digest, job.scheme, job.format) == (Digest.SHA256, Scheme.ECDSA, SignatureFormat.COMPACT)


def test_a_job_without_id_takes_the_message_id() -> None:
    """So that there is always something to answer to."""
    assert parse_job('{"type": "generate", "userid": "u"}', MESSAGE_ID).job_id == MESSAGE_ID


@pytest.mark.parametrize(
    ("encoding", "text", "message"),
    [
        ("utf8", "Grüße 🔑", "Grüße 🔑".encode()),
        ("hex", "00ff", b"\x00\xff"),
        ("hex", "0x00FF", b"\x00\xff"),
        ("hex", "", b""),
        ("base64", base64.b64encode(bytes(range(256))).decode(), bytes(range(256))),
    ],
)
def test_a_message_in_each_encoding(encoding: str, text: str, message: bytes) -> None:
    """The bytes that will be signed."""
    job = parse_job(json.dumps(SIGN | {"encoding": encoding, "message": text}), MESSAGE_ID)
    assert isinstance(job, SignJob)
    assert job.message_bytes == message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param("", "not JSON", id="empty"),
        pytest.param("hello", "not JSON", id="no JSON"),
        pytest.param("{", "not JSON", id="truncated"),
        pytest.param('{"a": 1} x', "not JSON", id="something behind it"),
        pytest.param("[]", "not a JSON object", id="array"),
        pytest.param('"text"', "not a JSON object", id="text"),
        pytest.param("null", "not a JSON object", id="null"),
        pytest.param("17", "not a JSON object", id="number"),
        pytest.param("NaN", "NaN is not JSON", id="NaN"),
        pytest.param('{"a": Infinity}', "Infinity is not JSON", id="Infinity"),
        pytest.param('{"a": -Infinity}', "-Infinity is not JSON", id="-Infinity"),
        pytest.param('{"type": "sign", "type": "sign"}', "twice", id="duplicate key"),
        pytest.param('{"type": "sign", "deep": [{"a": 1, "a": 2}]}', "twice", id="duplicate key inside"),
        pytest.param('{"type": "sign", "\\u0074ype": "sign"}', "twice", id="duplicate key in two spellings"),
        pytest.param('{"userid": "\\ud800"}', "lone surrogate", id="lone surrogate"),
        pytest.param('{"\\udfff": 1}', "lone surrogate", id="lone surrogate as a key"),
        pytest.param('{"deep": ["\\ud800"]}', "lone surrogate", id="lone surrogate inside"),
        pytest.param('{"userid": "\ud800"}', "lone surrogate", id="lone surrogate as it is"),
        pytest.param("[" * 100_000, "too deeply", id="deep"),
        pytest.param('{"a":' * 100_000, "too deeply", id="deep maps"),
        pytest.param('{"n": ' + "9" * 5000 + "}", "more than 19 digits", id="long number"),
        pytest.param('{"n": -' + "9" * 20 + "}", "more than 19 digits", id="long negative number"),
    ],
)
def test_a_body_that_is_no_object(body: str, text: str) -> None:
    """Nothing of it can be trusted, so the answer goes to the message id."""
    refusal = refused(body)
    assert text in refusal.error.detail
    assert (refusal.job_id, refusal.job_type, refusal.userid) == (MESSAGE_ID, "unknown", None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param({"type": None}, "type", id="type null"),
        pytest.param({"type": "delete"}, "type: allowed are 'generate', 'sign'", id="unknown type"),
        pytest.param({"type": ["sign"]}, "type", id="type of another kind"),
        pytest.param({"userid": ...}, "userid: field is missing", id="no userid"),
        pytest.param({"message": ...}, "message: field is missing", id="no message"),
        pytest.param({"userid": 1}, "userid", id="userid a number"),
        pytest.param({"userid": ""}, "userid", id="userid empty"),
        pytest.param({"userid": "a b"}, "userid", id="userid with a space"),
        pytest.param({"userid": "u\n"}, "userid", id="userid with a newline"),
        pytest.param({"userid": "ü"}, "userid", id="userid beyond ASCII"),
        pytest.param({"userid": "u" * 129}, "userid", id="userid too long"),
        pytest.param({"message": 1}, "message", id="message a number"),
        pytest.param({"message": "x" * (MAX_MESSAGE_BYTES + 1)}, "message: at most 65536 bytes", id="too long"),
        pytest.param({"message": "ü" * 40_000}, "message: at most 65536 bytes", id="too long in bytes"),
        pytest.param({"message": "x" * 200_000}, "message", id="much too long"),
        pytest.param({"encoding": "hex", "message": "0"}, "not hexadecimal", id="odd hex"),
        pytest.param({"encoding": "hex", "message": "zz"}, "not hexadecimal", id="no hex"),
        pytest.param({"encoding": "hex", "message": "éé"}, "not hexadecimal", id="hex beyond ASCII"),
        pytest.param({"encoding": "base64", "message": "a"}, "not base64", id="no base64"),
        pytest.param({"encoding": "base64", "message": "YQ==\n"}, "not base64", id="base64 with a newline"),
        pytest.param({"encoding": "base64", "message": "é==="}, "not base64", id="base64 beyond ASCII"),
        pytest.param({"encoding": "utf16"}, "encoding", id="unknown encoding"),
        pytest.param({"digest": "md5"}, "digest", id="unknown digest"),
        pytest.param({"digest": "none"}, "32-byte digest", id="no digest of 32 bytes"),
        pytest.param({"scheme": "schnorr", "digest": "keccak256"}, "digest: schnorr", id="schnorr with keccak256"),
        pytest.param({"scheme": "schnorr", "format": "der"}, "format: schnorr", id="schnorr in DER"),
        pytest.param({"authorization": "x"}, "authorization", id="authorization, reserved"),
        pytest.param({"reply_to": "q" * 257}, "reply_to", id="reply_to too long"),
        pytest.param({"extra": 1}, "extra: unknown field", id="unknown field"),
        pytest.param({"x" * 500_000: 1}, "unknown field", id="unknown field with a long name"),
        pytest.param({str(number): 1 for number in range(5000)}, "unknown field", id="many unknown fields"),
    ],
)
def test_a_job_with_a_wrong_field(change: dict[str, Any], text: str) -> None:
    """The line names the field; the answer goes to the job's own id."""
    fields = {name: value for name, value in (SIGN | change).items() if value is not ...}
    refusal = refused(json.dumps(fields))
    assert text in refusal.error.detail
    assert refusal.job_id == "s-1"


def test_a_job_without_type() -> None:
    """The field is named like any other."""
    refusal = refused(json.dumps({"job_id": "j", "userid": "u"}))
    assert refusal.error.detail == "type: field is missing"
    assert (refusal.job_type, refusal.userid) == ("unknown", "u")


@pytest.mark.parametrize("job_id", ["", "a b", "x" * 129, "ü", 5, None, "a\n"])
def test_a_bad_job_id(job_id: object) -> None:
    """The answer goes to the message id instead, and still knows the rest."""
    refusal = refused(json.dumps(SIGN | {"job_id": job_id}))
    assert "job_id" in refusal.error.detail
    assert (refusal.job_id, refusal.job_type, refusal.userid) == (MESSAGE_ID, "sign", "u001")


def test_a_message_of_the_greatest_length() -> None:
    """64 KiB fit, in each encoding."""
    message = bytes(MAX_MESSAGE_BYTES)
    for encoding, text in (
        ("hex", "0x" + message.hex()),
        ("base64", base64.b64encode(message).decode()),
        ("utf8", message.decode()),
    ):
        job = parse_job(json.dumps(SIGN | {"encoding": encoding, "message": text}), MESSAGE_ID)
        assert isinstance(job, SignJob)
        assert job.message_bytes == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.text(max_size=200) | JSON.map(json.dumps))
def test_only_the_declared_error_comes_out(body: str) -> None:
    """Any text is a job or a JobRefusedError."""
    try:
        parse_job(body, MESSAGE_ID)
    except JobRefusedError:
        return


FIELDS = st.sampled_from([*SIGN, "encoding", "digest", "scheme", "format", "reply_to"])


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_value_in_any_field(change: dict[str, Any]) -> None:
    """Any value of a field is taken as it is or refused; a job that was taken can be read."""
    try:
        job = parse_job(json.dumps(SIGN | change), MESSAGE_ID)
    except JobRefusedError:
        return
    if isinstance(job, SignJob):
        assert len(job.message_bytes) <= MAX_MESSAGE_BYTES


def test_replies_survive() -> None:
    """What a worker writes a client reads."""
    replies = [
        GenerateReply(
            job_id="g",
            userid="u",
            publickey="00",
            publickey_compressed="02",
            ethereum_address="0x",
            created=True,
            birth_certificate="",
        ),
        SignReply(job_id="s", userid="u", signature="00", publickey="00", verified=True),
        ErrorReply.of("unknown", "m", None, SignerError(ErrorCode.UNKNOWN_USER)),
    ]
    for reply in replies:
        assert REPLY.validate_json(reply.model_dump_json()) == reply
    assert replies[2].model_dump(mode="json")["error"] == {
        "code": "unknown_user",
        "message": "no key record exists for this user id",
        "retryable": False,
    }
