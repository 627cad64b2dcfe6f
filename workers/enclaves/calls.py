"""The two batch operations of enclaves: how items become a request, how large they are, how results are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from protocol.errors import SignerError
from protocol.messages import (
    EnclaveFacts,
    ErrorBody,
    Generate,
    GeneratedKey,
    GenerateItem,
    GenerateResult,
    Request,
    Result,
    Role,
    Sign,
    SignItem,
    SignResult,
)

ItemT = TypeVar("ItemT", bound=SignItem | GenerateItem)
ValueT = TypeVar("ValueT")

ENVELOPE_BYTES: Final = 1024
"""Of a frame beside its items: `v`, `id`, `type`, `items` and lengths take under 64."""

_SIGN_ITEM_OVERHEAD_BYTES: Final = 256
"""Names, lengths and enumerations of one sign item take about 170."""

_GENERATED_KEY_BYTES: Final = 16 * 1024
"""The answer is what counts: an attestation document has 4 to 8 KB, an encrypted data key under 1 KB."""


@dataclass(frozen=True, slots=True)
class FromEnclave(Generic[ValueT]):
    """What an enclave answered for one item, and which enclave. Nothing of it is verified yet."""

    value: ValueT
    enclave: EnclaveFacts


@dataclass(frozen=True, slots=True)
class Operation(Generic[ItemT, ValueT]):
    """One batch operation."""

    role: Role
    """Of the enclaves that do it."""
    weigh: Callable[[ItemT], int]
    """Bytes of an item, or of its answer if that is longer; an upper bound."""
    request: Callable[[Sequence[ItemT]], Request]
    read: Callable[[Result], Sequence[ValueT | SignerError]]
    """Of the result that belongs to the request: the session has checked its kind."""


def _sign_item_bytes(item: SignItem) -> int:
    record = item.record
    return (
        _SIGN_ITEM_OVERHEAD_BYTES
        + len(item.userid)
        + len(item.message)
        + len(record.statement)
        + len(record.sealed_key)
        + len(record.encrypted_data_key)
    )


def _generate_item_bytes(_: GenerateItem) -> int:
    return _GENERATED_KEY_BYTES


def _read_signatures(result: Result) -> Sequence[bytes | SignerError]:
    return [_one_of(item.signature, item.error) for item in cast("SignResult", result).results]


def _read_keys(result: Result) -> Sequence[GeneratedKey | SignerError]:
    return [_one_of(item.key, item.error) for item in cast("GenerateResult", result).results]


def _one_of(value: ValueT | None, error: ErrorBody | None) -> ValueT | SignerError:
    """Return what is there; the model has checked that it is exactly one of both."""
    return value if value is not None else cast("ErrorBody", error).to_error()


SIGN: Final[Operation[SignItem, bytes]] = Operation(
    role=Role.SIGNER,
    weigh=_sign_item_bytes,
    request=lambda items: Sign(items=tuple(items)),
    read=_read_signatures,
)
GENERATE: Final[Operation[GenerateItem, GeneratedKey]] = Operation(
    role=Role.GENERATOR,
    weigh=_generate_item_bytes,
    request=lambda items: Generate(items=tuple(items)),
    read=_read_keys,
)
