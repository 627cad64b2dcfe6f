"""The bytes between an enclave and its Nitro Secure Module: CBOR requests, responses and the closed set of errors.

Format: aws-nitro-enclaves-nsm-api, src/api/mod.rs (Rust enums, tagged from outside). A request without arguments is a
bare text, as in "GetRandom"; one with arguments is a map of one entry, as in {"DescribePCR": {"index": 0}}. A response
has the name of its request, in the same two forms, or is {"Error": code}.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Final, Generic, TypeVar

from protocol.cbor import CborError, decode, encode, is_list, is_map

T = TypeVar("T")

PCR_COUNT: Final = 32
PCR_BYTES: Final = 48
"""SHA-384."""

MAX_RANDOM_BYTES: Final = 256
"""Most that one GetRandom returns."""


@unique
class NsmErrorCode(StrEnum):
    """Why a request to the NSM failed: the module's own codes, then two for when it could not be asked."""

    INVALID_ARGUMENT = "InvalidArgument"
    INVALID_INDEX = "InvalidIndex"
    INVALID_RESPONSE = "InvalidResponse"
    READ_ONLY_INDEX = "ReadOnlyIndex"
    INVALID_OPERATION = "InvalidOperation"
    BUFFER_TOO_SMALL = "BufferTooSmall"
    INPUT_TOO_LARGE = "InputTooLarge"
    INTERNAL_ERROR = "InternalError"

    UNAVAILABLE = "Unavailable"
    """There is no device, or it may not be opened."""

    TIMED_OUT = "TimedOut"
    """No answer within the deadline."""


_FROM_DEVICE: Final = frozenset(NsmErrorCode) - {NsmErrorCode.UNAVAILABLE, NsmErrorCode.TIMED_OUT}


class NsmError(Exception):
    """A request to the NSM failed with a code of the closed set."""

    def __init__(self, code: NsmErrorCode, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass(frozen=True, slots=True)
class NsmDescription:
    """What the module says of itself."""

    version: tuple[int, int, int]
    module_id: str
    max_pcrs: int
    locked_pcrs: frozenset[int]
    digest: str


@dataclass(frozen=True, slots=True)
class PcrState:
    """One platform configuration register. A document carries it only when it is locked."""

    is_locked: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """One request and the way to read its response."""

    name: str
    request: bytes
    _read_body: Callable[[Any], T]

    def read(self, response: bytes) -> T:
        """Read the response to this request.

        Raises:
            NsmError: the module's own code, or INVALID_RESPONSE when these bytes do not answer this request.
        """
        try:
            # Current hardware writes documents with an indefinite length; its responses may come to the same.
            value = decode(response, allow_indefinite=True)
        except CborError as error:
            raise self._invalid(str(error)) from error
        if value == self.name:
            return self._read(None)
        if not is_map(value) or len(value) != 1:
            raise self._invalid("neither a text nor a map of one entry")
        [(name, body)] = value.items()
        if name == "Error":
            raise self._refusal(body)
        if name != self.name:
            raise self._invalid("the answer to another request")
        return self._read(body)

    def _read(self, body: Any) -> T:
        try:
            return self._read_body(body)
        except _BodyError as error:
            raise self._invalid(str(error)) from error

    def _refusal(self, code: Any) -> NsmError:
        if isinstance(code, str) and code in _FROM_DEVICE:
            return NsmError(NsmErrorCode(code), f"the NSM refused {self.name}")
        return self._invalid("an error code that the NSM does not have")

    def _invalid(self, text: str) -> NsmError:
        return NsmError(NsmErrorCode.INVALID_RESPONSE, f"{self.name}: {text}")


def describe_nsm() -> Exchange[NsmDescription]:
    """Ask for the module's description."""
    return Exchange("DescribeNSM", encode("DescribeNSM"), _read_description)


def describe_pcr(index: int) -> Exchange[PcrState]:
    """Ask for one PCR."""
    return _with_arguments("DescribePCR", {"index": index}, _read_pcr_state)


def extend_pcr(index: int, data: bytes) -> Exchange[bytes]:
    """Extend an unlocked PCR: its new value is SHA-384(old value || data); `data` is not hashed before."""
    return _with_arguments("ExtendPCR", {"index": index, "data": data}, lambda body: _pcr_value(body, "data"))


def lock_pcr(index: int) -> Exchange[None]:
    """Lock one PCR."""
    return _with_arguments("LockPCR", {"index": index}, _read_nothing)


def lock_pcrs(end: int) -> Exchange[None]:
    """Lock every PCR below `end`."""
    return _with_arguments("LockPCRs", {"range": end}, _read_nothing)


def get_random() -> Exchange[bytes]:
    """Ask for 1 to 256 random bytes; the module chooses how many."""
    return Exchange("GetRandom", encode("GetRandom"), _read_random)


def attestation(*, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> Exchange[bytes]:
    """Ask for an attestation document; each field has at most 1024 bytes."""
    arguments = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
    return _with_arguments("Attestation", arguments, lambda body: _bytes(body, "document"))


class _BodyError(ValueError):
    """A field of a response is missing or wrong."""


def _with_arguments(name: str, arguments: dict[str, Any], read_body: Callable[[Any], T]) -> Exchange[T]:
    return Exchange(name, encode({name: arguments}), read_body)


def _read_description(body: Any) -> NsmDescription:
    module_id, digest = (_field(body, name) for name in ("module_id", "digest"))
    if not isinstance(module_id, str) or not isinstance(digest, str):
        raise _BodyError("module_id or digest is not a text")
    locked = _field(body, "locked_pcrs")
    if not is_list(locked):
        raise _BodyError("locked_pcrs is not a list")
    return NsmDescription(
        version=(
            _number(_field(body, "version_major")),
            _number(_field(body, "version_minor")),
            _number(_field(body, "version_patch")),
        ),
        module_id=module_id,
        max_pcrs=_number(_field(body, "max_pcrs")),
        locked_pcrs=frozenset(_number(index) for index in locked),
        digest=digest,
    )


def _read_pcr_state(body: Any) -> PcrState:
    is_locked = _field(body, "lock")
    if not isinstance(is_locked, bool):
        raise _BodyError("lock is not true or false")
    return PcrState(is_locked=is_locked, value=_pcr_value(body, "data"))


def _read_nothing(body: Any) -> None:
    if body is not None:
        raise _BodyError("a body where none belongs")


def _read_random(body: Any) -> bytes:
    value = _bytes(body, "random")
    if not 1 <= len(value) <= MAX_RANDOM_BYTES:
        raise _BodyError(f"{len(value)} random bytes")
    return value


def _pcr_value(body: Any, name: str) -> bytes:
    value = _bytes(body, name)
    if len(value) != PCR_BYTES:
        raise _BodyError(f"a PCR of {len(value)} bytes")
    return value


def _bytes(body: Any, name: str) -> bytes:
    value = _field(body, name)
    if not isinstance(value, bytes):
        raise _BodyError(f"{name} is not a byte string")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:  # not isinstance: a CBOR boolean is an int to Python
        raise _BodyError("not an unsigned number where one belongs")
    return value


def _field(body: Any, name: str) -> Any:
    # Fields that we do not know are passed over, as AWS's own library does: a newer module may say more.
    if not is_map(body) or name not in body:
        raise _BodyError(f"{name} is missing")
    return body[name]
