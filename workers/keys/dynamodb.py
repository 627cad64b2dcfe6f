"""The four DynamoDB calls on the key store. Items are maps of strings, keyed by one string attribute.

One retry owner: the SDK makes one try, tenacity makes the others, for failed calls and for keys that a batch read left
unprocessed alike.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import structlog
from botocore.exceptions import ClientError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from protocol.cbor import is_map
from protocol.errors import ErrorCode, SignerError

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

Item: TypeAlias = dict[str, str]
AnswerT = TypeVar("AnswerT")

MAX_BATCH_KEYS: Final = 100
"""Of one BatchGetItem (DynamoDB API reference)."""

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
"""A store that is down for longer is left to the queue, whose back-off is longer."""

_CONFLICT: Final = "ConditionalCheckFailedException"
_FINAL: Final = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    }
)
"""Errors that another try within seconds does not cure (DynamoDB developer guide, "Error handling")."""

log = structlog.get_logger()


class _TryAgainError(Exception):
    """The call failed, or left something undone, and may succeed at once."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class _ConflictError(Exception):
    """The condition of a put did not hold; `item` is what stands there, if DynamoDB told it."""

    def __init__(self, item: Item | None) -> None:
        super().__init__()
        self.item = item


class DynamoDbCalls:
    """Calls with time-outs, tries and errors of our own. Every one may raise `SignerError` (`store_unavailable`).

    Attributes:
        trouble: the code of DynamoDB, or of the way to it, that the last failed call ended with; None when none did.
    """

    def __init__(self, client: "DynamoDBClient", *, call_timeout_s: float, tries: int) -> None:
        """Take a client that makes one try itself, the time of one try, and the number of tries."""
        self._client = client
        self._call_timeout_s = call_timeout_s
        self._tries = tries
        self.trouble: str | None = None

    async def get(self, table: str, key_name: str, key: str) -> Item | None:
        """Read one item, consistently; None when there is none."""

        async def once() -> Item | None:
            answer = await self._call(
                self._client.get_item(TableName=table, Key={key_name: {"S": key}}, ConsistentRead=True)
            )
            return _strings(answer["Item"]) if "Item" in answer else None

        return await self._try(once)

    async def get_batch(
        self, table: str, key_name: str, keys: Collection[str]
    ) -> tuple[dict[str, Item], frozenset[str]]:
        """Read up to 100 different keys, consistently.

        Returns:
            the items that exist by their key, and the keys that stayed unprocessed in spite of every try.
        """
        found: dict[str, Item] = {}
        left = set(keys)

        async def once() -> None:
            wanted: Any = {table: {"Keys": [{key_name: {"S": key}} for key in left], "ConsistentRead": True}}
            answer = await self._call(self._client.batch_get_item(RequestItems=wanted))
            for attributes in answer.get("Responses", {}).get(table, ()):
                item = _strings(attributes)
                if item.get(key_name) in left:
                    found[item[key_name]] = item
            unprocessed = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", ())
            left.intersection_update(_keys(unprocessed, key_name))
            if left:
                raise _TryAgainError("UnprocessedKeys")

        try:
            await self._try(once)
        except SignerError:
            if len(left) == len(keys):
                raise
        return found, frozenset(left)

    async def scan(self, table: str, key_name: str, after: str | None) -> tuple[list[Item], str | None]:
        """Read the next page of a whole table, consistently; `after` is None for the first.

        Returns:
            items, and the key to go on after; None at the end of the table.
        """

        async def once() -> tuple[list[Item], str | None]:
            begin: Any = {} if after is None else {"ExclusiveStartKey": {key_name: {"S": after}}}
            answer = await self._call(self._client.scan(TableName=table, ConsistentRead=True, **begin))
            last = _strings(answer.get("LastEvaluatedKey")).get(key_name)
            return [_strings(attributes) for attributes in answer.get("Items", ())], last

        return await self._try(once)

    async def put_once(self, table: str, key_name: str, item: Item) -> Item:
        """Write an item unless its key exists; return what stands there then.

        After a lost answer the second try meets the item of the first, and returns an equal one.
        """

        async def once() -> Item:
            try:
                await self._call(
                    self._client.put_item(
                        TableName=table,
                        Item={name: {"S": value} for name, value in item.items()},
                        ConditionExpression="attribute_not_exists(#key)",
                        ExpressionAttributeNames={"#key": key_name},
                        ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    )
                )
            except _ConflictError as conflict:
                existing = conflict.item or await self.get(table, key_name, item[key_name])
                if existing is None:
                    raise SignerError(ErrorCode.STORE_UNAVAILABLE, "an item is there and is not there") from conflict
                return existing
            return item

        return await self._try(once)

    async def _try(self, once: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgainError),
            stop=stop_after_attempt(self._tries),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            reraise=True,
        )
        try:
            return await retrying(once)
        except _TryAgainError as error:
            raise self._unavailable(error.code) from error

    async def _call(self, call: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make one try.

        Raises:
            _TryAgainError, _ConflictError: see there.
            SignerError: `store_unavailable`, and another try now does not help.
        """
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await call
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code == _CONFLICT:
                existing: Any = error.response.get("Item")
                raise _ConflictError(_strings(existing) if existing else None) from error
            if code in _FINAL:
                raise self._unavailable(code) from error
            raise _TryAgainError(code) from error
        except Exception as error:  # the SDK lets through what its HTTP client and its parsers raise
            raise _TryAgainError(type(error).__name__) from error

    def _unavailable(self, code: str) -> SignerError:
        self.trouble = code
        log.warning("store_call_failed", code=code)
        return SignerError(ErrorCode.STORE_UNAVAILABLE)


def _strings(attributes: Any) -> Item:
    """Return the string attributes of an item. The others are not ours, or are what their reader will miss."""
    if not is_map(attributes):
        return {}
    return {name: value["S"] for name, value in attributes.items() if is_map(value) and isinstance(value.get("S"), str)}


def _keys(keys: Iterable[Any], key_name: str) -> set[str]:
    return {key for attributes in keys if (key := _strings(attributes).get(key_name)) is not None}
