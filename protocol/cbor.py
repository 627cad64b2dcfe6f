"""Strict CBOR (RFC 8949): the one place that imports cbor2.

What comes from a peer is decoded without tags, without duplicate keys, with bounded depth, and with nothing after the
value. Indefinite lengths are refused unless the caller's format has them (NSM attestation documents do).
"""

import io
from collections.abc import Callable
from typing import Any, NoReturn, TypeGuard

import cbor2  # noqa: TID251 - the one place that may

DEFAULT_MAX_DEPTH = 8
"""Deepest nesting of our own formats is 4; the attestation document's is 3."""


class CborError(ValueError):
    """The bytes are not the one strict CBOR value that was expected."""


class _RefuseEveryTag(dict[int, Callable[..., NoReturn]]):
    """A decoder table that answers for each tag, so that cbor2's built-in decoders are never reached."""

    def __missing__(self, tag: int) -> Callable[..., NoReturn]:
        def refuse(*_: object) -> NoReturn:
            raise CborError(f"tag {tag} is not allowed")

        return refuse


_NO_TAGS = _RefuseEveryTag()


def encode(value: object) -> bytes:
    """Encode a value in definite lengths, map keys in the order given."""
    return cbor2.dumps(value)


def encode_canonical(value: object) -> bytes:
    """Encode a value in the one canonical form (RFC 8949 section 4.2.3: length-first key order)."""
    return cbor2.dumps(value, canonical=True)


def is_map(value: object) -> TypeGuard[dict[Any, Any]]:
    """Tell a decoded map, its keys and values not judged yet."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Tell a decoded array, its items not judged yet."""
    return isinstance(value, list)


def decode(data: bytes, *, max_depth: int = DEFAULT_MAX_DEPTH, allow_indefinite: bool = False) -> Any:
    """Decode exactly one value.

    Raises:
        CborError: malformed, truncated, too deep, tagged, a duplicate key, or bytes after the value.
    """
    source = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        source,
        semantic_decoders=_NO_TAGS,
        max_depth=max_depth,
        allow_indefinite=allow_indefinite,
        allow_duplicate_keys=False,
    )
    try:
        value = decoder.decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise CborError(f"not valid CBOR: {error}") from error
    if source.tell() != len(data):
        raise CborError(f"{len(data) - source.tell()} bytes after the CBOR value")
    return value


def decode_canonical(data: bytes, *, max_depth: int = DEFAULT_MAX_DEPTH) -> Any:
    """Decode exactly one value that is in canonical form, so that equal values have equal bytes.

    Raises:
        CborError: as `decode`, or the bytes are another encoding of the value.
    """
    value = decode(data, max_depth=max_depth)
    try:
        canonical = encode_canonical(value)
    except (cbor2.CBORError, ValueError, TypeError) as error:
        raise CborError("not a value with a canonical encoding") from error
    if canonical != data:
        raise CborError("not in canonical form")
    return value
