"""Frames: a 4-byte big-endian length, then that many bytes. A value machine with no I/O."""

from collections.abc import Iterator

from protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

DEFAULT_MAX_FRAME_BYTES = 1 << 20
"""1 MiB: as large as the largest SQS message (SQS quotas), so any one job fits."""

_LENGTH_BYTES = 4


def encode_frame(body: bytes, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> bytes:
    """Return the frame of a body.

    Raises:
        LocalProtocolError: the body is empty or longer than the limit.
    """
    if not 0 < len(body) <= max_frame_bytes:
        raise LocalProtocolError(f"a frame body has 1 to {max_frame_bytes} bytes, not {len(body)}")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameDecoder:
    """Turns received bytes into frame bodies; holds at most one partial frame."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """Take bytes as they came; yield the body of each frame that is now whole.

        Raises:
            RemoteProtocolError: a length of 0 or over the limit, judged on the length alone, before its body is kept.
        """
        self._buffer += data
        start = 0
        try:
            while (body_start := start + _LENGTH_BYTES) <= len(self._buffer):
                length = int.from_bytes(self._buffer[start:body_start], "big")
                if length > self._max_frame_bytes:
                    raise RemoteProtocolError(
                        ErrorCode.FRAME_TOO_LARGE, f"a frame of {length} bytes; the limit is {self._max_frame_bytes}"
                    )
                if length == 0:
                    raise RemoteProtocolError(ErrorCode.BAD_FRAME, "a frame of 0 bytes")
                if (end := body_start + length) > len(self._buffer):
                    return
                start = end
                yield bytes(self._buffer[body_start:end])
        finally:
            del self._buffer[:start]

    @property
    def is_between_frames(self) -> bool:
        """Whether a connection may end here without cutting a frame."""
        return not self._buffer
