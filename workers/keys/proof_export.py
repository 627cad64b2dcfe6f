"""Reads key proofs out of the tables: one key, or all of them in the order of the table's scan.

Needs GetItem, BatchGetItem and, for all, Scan: rights of an auditor's role, which the workers' roles do not have.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from config.worker import StoreSettings
from protocol.errors import ErrorCode, SignerError
from protocol.keyproof import MAX_PROOF_BYTES, KeyProof, KeyProofError
from protocol.keyrecord import KeyRecord
from workers.keys.dynamodb import MAX_BATCH_KEYS, DynamoDbCalls, Item

_RECORD_KEY: Final = "userid"
_BIRTH_KEY: Final = "publickey"
_CERTIFICATE: Final = "birth_certificate"


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row of the key table for which no proof can be written."""

    userid: str
    reason: str


async def export_one(calls: DynamoDbCalls, store: StoreSettings, userid: str) -> KeyProof | UnreadableRow:
    """Return the proof of one key.

    Raises:
        SignerError: `store_unavailable` or `unknown_user`.
    """
    item = await calls.get(store.table, _RECORD_KEY, userid)
    if item is None:
        raise SignerError(ErrorCode.UNKNOWN_USER)
    (proof,) = await _prove(calls, store, [item])
    return proof


async def export_all(
    calls: DynamoDbCalls, store: StoreSettings, *, after: str | None
) -> AsyncIterator[KeyProof | UnreadableRow]:
    """Yield the proofs of all keys that the scan meets behind the user id `after`; None for the whole table.

    A scan meets each key that existed all the time once, and keys made meanwhile or not.

    Raises:
        SignerError: `store_unavailable`.
    """
    while True:
        items, after = await calls.scan(store.table, _RECORD_KEY, after)
        for start in range(0, len(items), MAX_BATCH_KEYS):
            for proof in await _prove(calls, store, items[start : start + MAX_BATCH_KEYS]):
                yield proof
        if after is None:
            return


async def _prove(calls: DynamoDbCalls, store: StoreSettings, items: Sequence[Item]) -> list[KeyProof | UnreadableRow]:
    rows = [_read(item) for item in items]
    keys = {row.public_key.hex() for row in rows if isinstance(row, KeyRecord)}
    births: dict[str, Item] = {}
    if keys:
        births, unprocessed = await calls.get_batch(store.birth_table, _BIRTH_KEY, keys)
        if unprocessed:  # a certificate that was not read must not look like one that does not exist
            raise SignerError(ErrorCode.STORE_UNAVAILABLE)
    return [_proof(row, births) if isinstance(row, KeyRecord) else row for row in rows]


def _read(item: Item) -> KeyRecord | UnreadableRow:
    try:
        return KeyRecord.from_item(item)
    except SignerError as error:
        return UnreadableRow(item.get(_RECORD_KEY, ""), error.detail)


def _proof(record: KeyRecord, births: dict[str, Item]) -> KeyProof | UnreadableRow:
    try:
        return KeyProof.of(record, births.get(record.public_key.hex(), {}).get(_CERTIFICATE))
    except KeyProofError as error:
        return UnreadableRow(record.userid, str(error))


def take_up(file: BinaryIO) -> str | None:
    """Make a half-written export ready to be continued: cut off a broken last line, and go to the end.

    Returns:
        The user id of the last whole line, which is where the scan goes on; None when there is no whole line.

    Raises:
        KeyProofError: the last whole line is no key proof, so this file is no export.
    """
    end = file.seek(0, 2)
    start = file.seek(max(0, end - 2 * MAX_PROOF_BYTES))  # a whole line and a broken one fit
    tail = file.read()
    whole, newline, _ = tail.rpartition(b"\n")
    if not newline and start:
        raise KeyProofError(f"the last line has more than {MAX_PROOF_BYTES} bytes")
    file.seek(start + len(whole) + len(newline))
    file.truncate()
    if not newline:
        return None
    return KeyProof.from_line(whole.rpartition(b"\n")[2]).userid
