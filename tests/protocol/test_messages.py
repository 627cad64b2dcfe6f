"""Messages: what is encoded decodes to the same value, and nothing but the declared errors comes out of any bytes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cbor import decode, encode
from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.messages import (
    MAX_BATCH_ITEMS,
    MAX_REQUEST_ID,
    REQUEST_TYPES,
    REQUESTS,
    RESULTS,
    Attest,
    AttestResult,
    BadItem,
    Digest,
    EnclaveFacts,
    ErrorBody,
    Events,
    Generate,
    GeneratedKey,
    GenerateItem,
    GenerateItemResult,
    GenerateResult,
    Hello,
    HelloResult,
    Limits,
    NotReadyReason,
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
    decode_body,
    decode_envelope,
    encode_envelope,
)

if TYPE_CHECKING:
    from protocol.model import StrictModel

RECORD = SealedRecord(statement=b"s", sealed_key=b"k", encrypted_data_key=b"d")
SECRET = "wJalrXUtnFEMI/K7MDENG"
CREDENTIALS = SetCredentials(
    access_key_id="AKIDEXAMPLE", secret_access_key=SECRET, session_token="token-text", expires_at_s=1
)
EVERY_MESSAGE = [
    Hello(versions=(1, 2), software="x", events=True),
    CREDENTIALS,
    Status(),
    Attest(nonce=bytes(16)),
    Generate(items=(GenerateItem(userid="u1"), GenerateItem(userid="u2"))),
    Sign(
        items=(
            SignItem(
                userid="u1",
                record=RECORD,
                message=b"m",
                digest=Digest.NONE,
                scheme=Scheme.SCHNORR,
                format=SignatureFormat.DER,
            ),
        )
    ),
    HelloResult(
        version=1,
        limits=Limits(max_frame_bytes=1, max_batch_items=1, max_in_flight=1),
        enclave=EnclaveFacts(
            role=Role.SIGNER,
            software="x",
            instance=bytes(16),
            module_id=None,
            pcr0=bytes(48),
            config_sha256=None,
            kms_key_arn=None,
            processes=2,
        ),
        ready=False,
        reason=NotReadyReason.BAD_CONFIG,
    ),
    SetCredentialsResult(expires_in_s=-1),
    StatusResult(ready=True, reason=None, credentials_expire_in_s=None, in_flight=1, counters={"a": 1}),
    AttestResult(document=b"d", facts=b"f"),
    GenerateResult(
        results=(
            GenerateItemResult(key=GeneratedKey(record=RECORD, birth_document=b"b")),
            GenerateItemResult(error=ErrorBody.of(ErrorCode.KMS_DENIED)),
        )
    ),
    SignResult(results=(SignItemResult(signature=bytes(64)), SignItemResult(error=ErrorBody.of(ErrorCode.INTERNAL)))),
    Events(events=({"event": "x", "count": 1},), dropped=3),
]


@pytest.mark.parametrize("message", EVERY_MESSAGE, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: StrictModel) -> None:
    """Encode, decode, check: the same value."""
    envelope = decode_envelope(encode_envelope(7, "some", message))
    assert (envelope.v, envelope.id, envelope.type) == (1, 7, "some")
    assert decode_body(type(message), envelope.body) == message


def test_every_request_has_a_name_and_a_result() -> None:
    """The three tables agree."""
    assert set(RESULTS) == set(REQUESTS.values())
    assert {REQUEST_TYPES[model]: model for model in RESULTS} == REQUESTS


@given(st.binary(max_size=200))
def test_only_the_declared_error_comes_out_of_bytes(data: bytes) -> None:
    """Any frame body is an envelope or a RemoteProtocolError."""
    with contextlib.suppress(RemoteProtocolError):
        decode_envelope(data)


KEYS = (
    st.sampled_from(["v", "id", "type", "body", "items", "userid", "record", "message"]) | st.integers() | st.binary()
)
FOREIGN = st.recursive(
    st.none() | st.integers(-3, 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5) | st.floats() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(FOREIGN, st.sampled_from(sorted(REQUESTS)))
def test_only_the_declared_error_comes_out_of_values(value: Any, kind: str) -> None:
    """Any decoded value is a request or a RemoteProtocolError, as an envelope and as a body."""
    with contextlib.suppress(RemoteProtocolError):
        decode_envelope(encode(value))
    with contextlib.suppress(RemoteProtocolError):
        decode_body(REQUESTS[kind], value)


@pytest.mark.parametrize("version", [0, 2, -1, 2**64 - 1])
def test_another_version_names_both(version: int) -> None:
    """The one line says what the peer speaks and what we do."""
    with pytest.raises(RemoteProtocolError, match=f"version {version}, we speak .1") as refused:
        decode_envelope(encode({"v": version, "whatever": "follows"}))
    assert refused.value.code is ErrorCode.UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    "change",
    [
        {"v": True},
        {"v": "1"},
        {"id": -1},
        {"id": MAX_REQUEST_ID + 1},
        {"id": "1"},
        {"id": 1.0},
        {"type": "x" * 33},
        {"type": 1},
        {"body": []},
        {"extra": 1},
    ],
)
def test_an_envelope_is_exactly_its_four_fields(change: dict[str, Any]) -> None:
    """No field is converted, none is ignored."""
    envelope = {"v": 1, "id": 1, "type": "status", "body": {}} | change
    with pytest.raises(RemoteProtocolError) as refused:
        decode_envelope(encode(envelope))
    assert refused.value.code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize("missing", ["v", "id", "type", "body"])
def test_each_field_of_an_envelope_is_needed(missing: str) -> None:
    """There are no defaults in an envelope."""
    envelope = {"v": 1, "id": 1, "type": "status", "body": {}}
    del envelope[missing]
    with pytest.raises(RemoteProtocolError, match=missing):
        decode_envelope(encode(envelope))


def test_a_bad_item_stands_aside() -> None:
    """One malformed item leaves its neighbours whole, and knows what is wrong with it."""
    good = {"userid": "u1"}
    batch = decode_body(Generate, {"items": [good, {"userid": "a b"}, 5, good]})
    assert [isinstance(item, BadItem) for item in batch.items] == [False, True, True, False]


@pytest.mark.parametrize(
    "change",
    [
        {"message": bytes(64 * 1024 + 1)},
        {"message": "text"},
        {"digest": "md5"},
        {"scheme": "eddsa"},
        {"format": "asn1"},
        {"authorization": b"x"},
        {"userid": "a" * 129},
        {"userid": "new\nline"},
        {"userid": "u1\n"},
        {"record": {"statement": bytes(1025), "sealed_key": b"", "encrypted_data_key": b""}},
        {"record": {"statement": b"", "sealed_key": bytes(129), "encrypted_data_key": b""}},
        {"record": {"statement": b"", "sealed_key": b"", "encrypted_data_key": bytes(6145)}},
        {"extra": 1},
    ],
)
def test_a_sign_item_out_of_bounds_is_bad(change: dict[str, Any]) -> None:
    """Every field of an item has a bound, and each bound holds."""
    item = {"userid": "u1", "record": RECORD.model_dump(), "message": b"m"} | change
    [read] = decode_body(Sign, {"items": [item]}).items
    assert isinstance(read, BadItem)


@pytest.mark.parametrize("count", [0, MAX_BATCH_ITEMS + 1])
def test_a_batch_is_bounded(count: int) -> None:
    """No items and too many items are refused as a whole."""
    with pytest.raises(RemoteProtocolError, match="items"):
        decode_body(Generate, {"items": [{"userid": "u"}] * count})


@pytest.mark.parametrize("versions", [[], ["1"], [1.0], list(range(17))])
def test_versions_are_a_short_list_of_integers(versions: list[Any]) -> None:
    """Nothing is converted inside the list either."""
    with pytest.raises(RemoteProtocolError, match="versions"):
        decode_body(Hello, {"versions": versions, "software": "x"})


@pytest.mark.parametrize("size", [15, 65])
def test_a_nonce_has_a_useful_length(size: int) -> None:
    """Too short a nonce can be guessed; too long a one is somebody's data."""
    with pytest.raises(RemoteProtocolError, match="nonce"):
        decode_body(Attest, {"nonce": bytes(size)})


@pytest.mark.parametrize("result", [{}, {"key": None}, {"error": None}])
@pytest.mark.parametrize("model", [GenerateItemResult, SignItemResult])
def test_an_item_result_is_one_thing(model: type[StrictModel], result: dict[str, Any]) -> None:
    """Neither value nor error is no answer."""
    with pytest.raises(RemoteProtocolError):
        decode_body(model, result)


def test_an_item_result_is_not_both() -> None:
    """A value and an error together would leave the choice to the reader."""
    error = ErrorBody.of(ErrorCode.INTERNAL).model_dump()
    with pytest.raises(RemoteProtocolError, match="exactly one"):
        decode_body(SignItemResult, {"signature": b"x", "error": error})
    key = GeneratedKey(record=RECORD, birth_document=b"").model_dump()
    with pytest.raises(RemoteProtocolError, match="exactly one"):
        decode_body(GenerateItemResult, {"key": key, "error": error})


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_survives(code: ErrorCode) -> None:
    """The code and its flag come back; nothing else ever crossed."""
    assert set(ErrorBody.of(code).model_dump()) == {"code", "retryable"}
    assert ErrorBody.of(code).to_error().code is code


@pytest.mark.parametrize(("retryable", "code"), [(True, ErrorCode.INTERNAL), (False, ErrorCode.BAD_REQUEST)])
def test_a_newer_code_keeps_its_flag(retryable: bool, code: ErrorCode) -> None:  # noqa: FBT001 - a table of cases
    """An enclave newer than its parent may have codes that the parent does not know."""
    error = ErrorBody(code="invented_later", retryable=retryable).to_error()
    assert (error.code, error.code.retryable) == (code, retryable)


def test_credentials_are_shown_nowhere() -> None:
    """No repr and no validation error has them."""
    for text in (repr(CREDENTIALS), str(CREDENTIALS), f"{CREDENTIALS!r}"):
        assert SECRET not in text
        assert "token-text" not in text
        assert "AKIDEXAMPLE" not in text
    with pytest.raises(RemoteProtocolError) as refused:
        decode_body(SetCredentials, CREDENTIALS.model_dump() | {"secret_access_key": SECRET * 100})
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value.__cause__)


@pytest.mark.parametrize("field", ["access_key_id", "secret_access_key", "session_token"])
@pytest.mark.parametrize("text", ["a\r\nX-Header: b", "a\nb", "a\rb", "a\0b", "a b", "a\x7fb", "\u00e9", "a\n", ""])
def test_credentials_cannot_carry_a_header(field: str, text: str) -> None:
    """They become headers of the enclave's own TLS session: a line break would let the parent write requests there."""
    with pytest.raises(RemoteProtocolError, match=field):
        decode_body(SetCredentials, CREDENTIALS.model_dump() | {field: text})


def test_enumerations_cross_as_plain_text() -> None:
    """Another implementation reads them without our classes."""
    body = decode(encode_envelope(1, "sign", EVERY_MESSAGE[5]))["body"]
    assert body["items"][0]["digest"] == "none"
    assert type(body["items"][0]["digest"]) is str
