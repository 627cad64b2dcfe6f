"""Frames: however the bytes are cut, the same frames come out, and a length is judged before its body."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from protocol.framing import FrameDecoder, encode_frame

LIMIT = 200
BODIES = st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=8)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Cut a stream at the given places."""
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(BODIES, st.lists(st.integers(min_value=0, max_value=10_000), max_size=40))
def test_any_chunking_gives_the_same_frames(bodies: list[bytes], places: list[int]) -> None:
    """What comes out depends on the bytes, not on how the network has cut them."""
    decoder = FrameDecoder(LIMIT)
    stream = b"".join(encode_frame(body, LIMIT) for body in bodies)
    received = [body for chunk in cut(stream, places) for body in decoder.receive_data(chunk)]
    assert received == bodies
    assert decoder.is_between_frames


@given(BODIES.filter(bool))
def test_byte_by_byte(bodies: list[bytes]) -> None:
    """One byte at a time is a chunking like any other."""
    decoder = FrameDecoder(LIMIT)
    stream = b"".join(encode_frame(body, LIMIT) for body in bodies)
    received = [body for byte in stream for body in decoder.receive_data(bytes([byte]))]
    assert received == bodies


@given(st.binary(max_size=1000))
def test_only_the_declared_error_comes_out(data: bytes) -> None:
    """Any bytes give frames within the limit or a RemoteProtocolError, and at most one partial frame is held."""
    decoder = FrameDecoder(LIMIT)
    with contextlib.suppress(RemoteProtocolError):
        for body in decoder.receive_data(data):
            assert 0 < len(body) <= LIMIT


@pytest.mark.parametrize(
    ("length", "code"), [(LIMIT + 1, ErrorCode.FRAME_TOO_LARGE), (2**32 - 1, ErrorCode.FRAME_TOO_LARGE)]
)
def test_too_long_is_refused_on_the_length_alone(length: int, code: ErrorCode) -> None:
    """Not one byte of the body has to come."""
    with pytest.raises(RemoteProtocolError) as refused:
        list(FrameDecoder(LIMIT).receive_data(length.to_bytes(4, "big")))
    assert refused.value.code is code


def test_an_empty_frame_is_malformed() -> None:
    """A frame of no bytes can hold no message."""
    with pytest.raises(RemoteProtocolError) as refused:
        list(FrameDecoder().receive_data(bytes(4)))
    assert refused.value.code is ErrorCode.BAD_FRAME


def test_frames_before_a_bad_one_still_come_out() -> None:
    """What was whole before the breach is not lost."""
    frames = FrameDecoder().receive_data(encode_frame(b"good") + encode_frame(b"also good") + bytes(4))
    assert next(frames) == b"good"
    assert next(frames) == b"also good"
    with pytest.raises(RemoteProtocolError):
        next(frames)


@pytest.mark.parametrize("body", [b"", bytes(LIMIT + 1)])
def test_our_own_frames_keep_the_limit(body: bytes) -> None:
    """To send an empty or too long frame is a bug here, not the peer's doing."""
    with pytest.raises(LocalProtocolError):
        encode_frame(body, LIMIT)


def test_a_partial_frame_is_told() -> None:
    """A connection that ends here has cut a frame."""
    decoder = FrameDecoder()
    assert list(decoder.receive_data(b"\0\0\0\x05abc")) == []
    assert not decoder.is_between_frames
