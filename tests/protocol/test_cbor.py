"""Strict CBOR: one value, no tags, no duplicate keys, bounded depth, nothing behind it; only CborError comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.cbor import CborError, decode, decode_canonical, encode, encode_canonical, is_list, is_map

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**64), max_value=2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.floats(allow_nan=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_a_value_survives(value: Any) -> None:
    """Decoding gives back what was encoded, in both forms."""
    assert decode(encode(value), max_depth=64) == value
    assert decode_canonical(encode_canonical(value), max_depth=64) == value


@given(st.binary(max_size=300))
@example(bytes.fromhex("9bffffffffffffffff"))  # an array of 2**64 - 1 items
@example(bytes.fromhex("5b7fffffffffffffff"))  # a byte string as long
@example(bytes.fromhex("bb00000000ffffffff"))  # a map of 2**32 - 1 pairs
@example(b"\x81" * 10_000)
@example(bytes.fromhex("a1816161f6"))  # an array as a key
@example(bytes.fromhex("a1a0f6"))  # a map as a key
@example(bytes.fromhex("f97e00"))  # NaN
@example(bytes.fromhex("f7"))  # undefined
@example(bytes.fromhex("62ff61"))  # text that is not UTF-8
@example(bytes.fromhex("ff"))
@example(b"")
def test_only_the_declared_error_comes_out(data: bytes) -> None:
    """Any bytes decode or raise CborError, whichever way they are read."""
    for read in (decode, decode_canonical, lambda some: decode(some, allow_indefinite=True)):
        try:
            read(data)
        except CborError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("c074323031332d30332d32315432303a30343a30305a", id="tag 0, a date"),
        pytest.param("c249010000000000000000", id="tag 2, a big number"),
        pytest.param("d81c80", id="tag 28, a shared value"),
        pytest.param("d9010080", id="tag 258-like, a set"),
        pytest.param("d9d9f7f6", id="tag 55799, self-described"),
        pytest.param("a2616101616102", id="duplicate key"),
        pytest.param("a1", id="truncated map"),
        pytest.param("0000", id="a second value behind the first"),
        pytest.param("9fff", id="indefinite array"),
        pytest.param("bfff", id="indefinite map"),
        pytest.param("5f4101ff", id="indefinite byte string"),
        pytest.param("7f6161ff", id="indefinite text"),
        pytest.param("1c", id="reserved length"),
        pytest.param("81" * 9 + "00", id="too deep"),
    ],
)
def test_refused(data: str) -> None:
    """Each of these is CBOR to somebody, and not to us."""
    with pytest.raises(CborError):
        decode(bytes.fromhex(data))


def test_indefinite_lengths_only_where_the_format_has_them() -> None:
    """Attestation documents write their payload map in this form."""
    assert decode(bytes.fromhex("bf616101ff"), allow_indefinite=True) == {"a": 1}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("1800", id="a longer form of 0"),
        pytest.param("a2626161016162f6", id="long key before the short one"),
        pytest.param("fb3ff0000000000000", id="a longer form of 1.0"),
        pytest.param("f7", id="undefined is a value, and canonical, but not ours"),
    ],
)
def test_canonical_form_is_one(data: str) -> None:
    """Another encoding of the same value is refused, so equal values have equal bytes."""
    try:
        value = decode_canonical(bytes.fromhex(data))
    except CborError:
        return
    assert encode_canonical(value) == bytes.fromhex(data)


def test_other_encodings_are_refused() -> None:
    """A reader that took both could be shown two statements with one meaning."""
    canonical = encode_canonical({"type": "x", "a": 1})
    assert decode_canonical(canonical) == {"type": "x", "a": 1}
    other = encode({"type": "x", "a": 1})
    assert other != canonical
    with pytest.raises(CborError, match="canonical"):
        decode_canonical(other)


def test_a_value_without_canonical_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the encoder refuse what the decoder took, that too is a CborError."""

    def refuse(_: object) -> bytes:
        raise TypeError("no")

    monkeypatch.setattr("protocol.cbor.encode_canonical", refuse)
    with pytest.raises(CborError, match="canonical encoding"):
        decode_canonical(b"\xf6")


def test_maps_and_arrays_are_told_apart() -> None:
    """The two guards agree with the decoder."""
    assert is_map(decode(b"\xa0"))
    assert not is_map(decode(b"\x80"))
    assert is_list(decode(b"\x80"))
    assert not is_list(decode(b"\xa0"))
