"""Bulk sign jobs: a bad item fails alone and is named by its place; a bad frame around them fails the job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode
from protocol.jobs import (
    MAX_JOB_ITEMS,
    REPLY,
    BadBatchItem,
    BatchFailure,
    BatchSignature,
    JobRefusedError,
    ReplyError,
    SignBatchItem,
    SignBatchJob,
    SignBatchReply,
    SignJob,
    parse_job,
)

MESSAGE_ID = "0f7e5ee4-67d1-4d8b-9a42-6f6b5d1c1a11"
ITEM = {"userid": "u1", "message": "Hello World"}


def parse(**fields: Any) -> SignBatchJob:
    """Parse a bulk job."""
    job = parse_job(json.dumps({"type": "sign_batch", "job_id": "b-1", "items": [ITEM], **fields}), MESSAGE_ID)
    assert isinstance(job, SignBatchJob)
    return job


def test_an_item_has_the_fields_and_defaults_of_a_sign_job() -> None:
    """What can be asked for alone can be asked for in bulk, and means the same."""
    options = {"message": "ab" * 32, "encoding": "hex", "digest": "none", "format": "der"}
    (item, plain) = parse(items=[{"userid": "u1", **options}, ITEM]).items
    single = parse_job(json.dumps({"type": "sign", "userid": "u1", **options}), MESSAGE_ID)
    assert isinstance(item, SignBatchItem)
    assert isinstance(single, SignJob)
    shared = SignBatchItem.model_fields.keys() & SignJob.model_fields.keys()
    assert item.model_dump(include=set(shared)) == single.model_dump(include=set(shared))
    assert SignJob.model_fields.keys() - shared == {"type", "job_id", "reply_to"}
    assert SignBatchItem.model_fields.keys() - shared == {"item_id"}
    assert isinstance(plain, SignBatchItem)
    assert (plain.item_id, plain.message_bytes) == (None, b"Hello World")


def test_a_job_is_written_as_it_was_read() -> None:
    """A bulk job that is sent on (from a file, from a dead letter) is the same job, and writing it warns of nothing."""
    job = parse(items=[ITEM, {**ITEM, "item_id": "i-1", "digest": "keccak256"}])
    assert parse_job(job.model_dump_json(exclude_defaults=True), MESSAGE_ID) == job


def test_a_job_belongs_to_a_worker() -> None:
    """Bulk jobs go to the queue of sign jobs, and are no one user's."""
    job = parse()
    assert (job.worker, job.userid, job.job_id) == ("sign", None, "b-1")


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        ({"userid": "u1"}, "message: field is missing"),
        ({**ITEM, "userid": "no spaces"}, "userid: "),
        ({**ITEM, "colour": 1}, "colour: unknown field"),
        ({**ITEM, "digest": "none"}, "message: with digest none"),
        ({**ITEM, "scheme": "schnorr", "format": "der"}, "format: schnorr"),
        ({**ITEM, "job_id": "x"}, "job_id: unknown field"),
        ({**ITEM, "authorization": {}}, "authorization: "),
        ("text", "Input should be"),
        (None, "Input should be"),
        ([], "Input should be"),
    ],
)
def test_a_bad_item_fails_alone(bad: object, detail: str) -> None:
    """It says what is wrong; its neighbours stay what they are."""
    first, second, third = parse(items=[ITEM, bad, ITEM]).items
    assert isinstance(second, BadBatchItem)
    assert detail in second.detail
    assert first == third == SignBatchItem(userid="u1", message="Hello World")


def test_a_bad_item_keeps_what_can_be_known_of_it() -> None:
    """So that its failure can be told to somebody."""
    (item,) = parse(items=[{"item_id": "i-1", "userid": "u1"}]).items
    assert item == BadBatchItem(item_id="i-1", userid="u1", detail="message: field is missing")
    (item,) = parse(items=[{"item_id": 7, "userid": ["u1"]}]).items
    assert isinstance(item, BadBatchItem)
    assert (item.item_id, item.userid) == (None, None)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"items": []}, "items: "),
        ({"items": [ITEM] * (MAX_JOB_ITEMS + 1)}, "items: "),
        ({"items": {"0": ITEM}}, "items: "),
        ({"items": "text"}, "items: "),
        ({"items": None}, "items: "),
        ({"userid": "u1"}, "userid: unknown field"),
        ({"message": "x"}, "message: unknown field"),
        ({"job_id": "a b"}, "job_id: "),
    ],
)
def test_a_bad_frame_around_the_items_refuses_the_job(fields: dict[str, Any], detail: str) -> None:
    """Then nothing can be answered item by item."""
    with pytest.raises(JobRefusedError) as error:
        parse(**fields)
    assert error.value.job_type == "sign_batch"
    assert error.value.error.code is ErrorCode.BAD_REQUEST
    assert detail in error.value.error.detail


def test_as_many_items_as_allowed_are_taken() -> None:
    """A thousand."""
    assert len(parse(items=[ITEM] * MAX_JOB_ITEMS).items) == MAX_JOB_ITEMS == 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("ab0 é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=8,
)
items = st.fixed_dictionaries(
    {},
    optional={
        "userid": st.sampled_from(["u1", "", "a b", None]),
        "message": st.sampled_from(["", "Hello", "00", 5]),
        "item_id": st.sampled_from(["i", "", 1, None]),
        "digest": st.sampled_from(["sha256", "none", "md5"]),
        "encoding": st.sampled_from(["utf8", "hex", "base64"]),
    },
)


@given(st.lists(items | json_values, min_size=1, max_size=8))
def test_any_items_parse_one_for_one(values: list[Any]) -> None:
    """An item is good exactly when it is good by itself, whatever stands beside it."""
    together = parse(items=values).items
    alone = [parse(items=[value]).items[0] for value in values]
    assert list(together) == alone


def test_a_reply_reads_back() -> None:
    """The published form of results is read by the reply reader."""
    made = BatchSignature(index=0, item_id=None, userid="u1", signature="5a", publickey="04")
    failed = BatchFailure(
        index=1,
        item_id="i-1",
        userid=None,
        error=ReplyError(code=ErrorCode.UNKNOWN_USER, message="", retryable=False),
    )
    reply = SignBatchReply(job_id="b-1", results=(made, failed))
    assert REPLY.validate_json(reply.model_dump_json()) == reply
