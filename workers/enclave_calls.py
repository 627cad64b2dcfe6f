"""The two batch operations of enclaves: how items become a request, how large they are, how results are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from protocol.errors import ErrorCode, SignerError
from protocol.messages import (
    EnclaveFacts,
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
    """May raise `SignerError` (`internal`) for an answer of another kind."""


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
    if not isinstance(result, SignResult):
        raise SignerError(ErrorCode.INTERNAL)
    return [
        item.signature
        if item.signature is not None
        else item.error.to_error()
        if item.error is not None
        else SignerError(ErrorCode.INTERNAL)
        for item in result.results
    ]


def _read_keys(result: Result) -> Sequence[GeneratedKey | SignerError]:
    if not isinstance(result, GenerateResult):
        raise SignerError(ErrorCode.INTERNAL)
    return [
        item.key
        if item.key is not None
        else item.error.to_error()
        if item.error is not None
        else SignerError(ErrorCode.INTERNAL)
        for item in result.results
    ]


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
