"""The key store: key records and birth certificates in DynamoDB. Both are written once and never changed."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from config.worker import StoreSettings
from protocol.birth import BirthCertificate, BirthCertificateError
from protocol.errors import ErrorCode, SignerError
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from workers.collector import Collector, fallible_collector
from workers.keys.dynamodb import MAX_BATCH_KEYS, DynamoDbCalls, Item

_RECORD_KEY = "userid"
_BIRTH_KEY = "publickey"


class KeyStore:
    """Reads and writes records. The reads of concurrent callers share their calls, which run in `group`."""

    def __init__(self, calls: DynamoDbCalls, settings: StoreSettings, group: asyncio.TaskGroup) -> None:
        self._calls = calls
        self._settings = settings
        self._cache = _RecordCache(settings.cache_records)
        self._reads: Collector[str, KeyRecord | SignerError] = fallible_collector(
            self._read, group, max_items=MAX_BATCH_KEYS, wait_s=settings.collect_ms / 1000
        )

    @property
    def cache_hits(self) -> int:
        """How many records were found in the cache."""
        return self._cache.hits

    @property
    def cache_misses(self) -> int:
        """How many were not."""
        return self._cache.misses

    async def get(self, userids: Iterable[str]) -> dict[str, KeyRecord | SignerError]:
        """Return for each user id its record or why there is none. Raises nothing.

        `unknown_user`; `record_refused` for a row that is no key record of this user; `store_unavailable`.
        """
        found: dict[str, KeyRecord | SignerError] = {}
        unread: list[str] = []
        for userid in dict.fromkeys(userids):
            record = self._cache.get(userid)
            if record is None:
                unread.append(userid)
            else:
                found[userid] = record
        found.update(zip(unread, await self._reads.submit(unread), strict=True))
        return found

    async def _read(self, userids: Sequence[str]) -> list[KeyRecord | SignerError]:
        items, unprocessed = await self._calls.get_batch(self._settings.table, _RECORD_KEY, set(userids))
        unread = dict.fromkeys(unprocessed, SignerError(ErrorCode.STORE_UNAVAILABLE))
        return [unread.get(userid) or self._parse(userid, items.get(userid)) for userid in userids]

    def _parse(self, userid: str, item: Item | None) -> KeyRecord | SignerError:
        if item is None:
            return SignerError(ErrorCode.UNKNOWN_USER)
        try:
            record = KeyRecord.from_item(item)
        except SignerError as error:
            return error
        if record.userid != userid:
            return SignerError(ErrorCode.RECORD_REFUSED, "the key record is that of another user id")
        self._cache.put(record)
        return record

    async def get_one(self, userid: str) -> KeyRecord:
        """Return a record by GetItem: all that the generate worker's role may do.

        Raises:
            SignerError: as the values of `get`.
        """
        cached = self._cache.get(userid)
        if cached is not None:
            return cached
        found = self._parse(userid, await self._calls.get(self._settings.table, _RECORD_KEY, userid))
        if isinstance(found, SignerError):
            raise found
        return found

    async def put_new(self, record: KeyRecord) -> KeyRecord:
        """Write the record of a new key unless the user has one; return the one that stands there then.

        Raises:
            SignerError: `store_unavailable`; `record_refused` when what stands there is no key record.
        """
        item = await self._calls.put_once(self._settings.table, _RECORD_KEY, record.to_item())
        stored = self._parse(record.userid, item)
        if isinstance(stored, SignerError):
            raise stored
        return stored

    async def put_birth(self, public_key: bytes, certificate: BirthCertificate) -> None:
        """Write the birth certificate of a new key: before its record, so that no record is without one.

        Raises:
            SignerError: `store_unavailable`; `record_refused` when the public key has another certificate.
        """
        item = {_BIRTH_KEY: public_key.hex(), "birth_certificate": certificate.to_base64()}
        stored = await self._calls.put_once(self._settings.birth_table, _BIRTH_KEY, item)
        if stored.get("birth_certificate") != item["birth_certificate"]:
            raise SignerError(ErrorCode.RECORD_REFUSED, "the public key has another birth certificate")

    async def get_birth(self, record: KeyRecord) -> BirthCertificate:
        """Return the birth certificate of a record. Its document is for the client to verify.

        Raises:
            SignerError: `store_unavailable`; `record_refused` when there is none, or it is that of another record.
        """
        item = await self._calls.get(self._settings.birth_table, _BIRTH_KEY, record.public_key.hex())
        try:
            certificate = BirthCertificate.from_base64((item or {})["birth_certificate"])
        except KeyError as error:
            raise SignerError(ErrorCode.RECORD_REFUSED, "the key has no birth certificate") from error
        except BirthCertificateError as error:
            raise SignerError(ErrorCode.RECORD_REFUSED, str(error)) from error
        if (certificate.statement, certificate.sealed_sha256) != (
            record.record.statement,
            sealed_record_sha256(record.record),
        ):
            raise SignerError(ErrorCode.RECORD_REFUSED, "the birth certificate is that of another key record")
        return certificate


class _RecordCache:
    """The records used last. They never change, so nothing expires; none of them is secret."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._records: OrderedDict[str, KeyRecord] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, userid: str) -> KeyRecord | None:
        record = self._records.get(userid)
        if record is None:
            self.misses += 1
        else:
            self.hits += 1
            self._records.move_to_end(userid)
        return record

    def put(self, record: KeyRecord) -> None:
        self._records[record.userid] = record
        self._records.move_to_end(record.userid)
        if len(self._records) > self._max_records:
            self._records.popitem(last=False)
