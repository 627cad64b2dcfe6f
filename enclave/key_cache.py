"""Opened keys in the signer's memory, bounded in number, time and uses.

An entry belongs to the exact bytes of a record: one changed bit misses the cache and meets every check again. A miss is
opened once, however many ask for it meanwhile.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from config.enclave import KeyCacheSettings
from enclave.keypair import KeyPair
from protocol.clock import Clock
from protocol.messages import SealedRecord


@dataclass(slots=True)
class _Entry:
    key: KeyPair
    expires_at_s: float
    uses_left: int


class KeyCache:
    """Least recently used out first."""

    def __init__(self, settings: KeyCacheSettings, clock: Clock) -> None:
        """Take the bounds and a clock that only goes forward."""
        self._settings = settings
        self._clock = clock
        self._entries: OrderedDict[tuple[str, bytes, bytes, bytes], _Entry] = OrderedDict()
        self._opening: dict[tuple[str, bytes, bytes, bytes], asyncio.Future[KeyPair]] = {}
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, userid: str, record: SealedRecord) -> KeyPair | None:
        """Return the key if it is here, and count the use."""
        place = _place(userid, record)
        entry = self._entries.get(place)
        if entry is None:
            return None
        if entry.uses_left <= 0 or self._clock() >= entry.expires_at_s:
            del self._entries[place]
            return None
        entry.uses_left -= 1
        self._entries.move_to_end(place)
        self.hits += 1
        return entry.key

    async def open(self, userid: str, record: SealedRecord, opener: Callable[[], Awaitable[KeyPair]]) -> KeyPair:
        """Return the key, opening it if nobody else is at it.

        Raises:
            Whatever `opener` raises, for everybody who waited for it.
        """
        place = _place(userid, record)
        while (opening := self._opening.get(place)) is not None:
            try:
                key = await asyncio.shield(opening)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not opening.cancelled() or (task is not None and task.cancelling()):
                    raise  # it is us who are cancelled, not only the one that opens
            else:
                if (entry := self._entries.get(place)) is not None:
                    entry.uses_left -= 1  # may pass below 0: who waited for one opening shares it
                return key
        self.misses += 1
        opening = self._opening[place] = asyncio.get_running_loop().create_future()
        try:
            key = await opener()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                opening.cancel()
            else:
                opening.set_exception(error)
                opening.exception()  # whether or not anybody waited, it is told here
            raise
        else:
            opening.set_result(key)
            self._keep(place, key)
            return key
        finally:
            del self._opening[place]

    async def sweep(self) -> None:
        """Forget expired keys until cancelled: an entry that nobody asks for again must not stay in memory."""
        while True:
            await asyncio.sleep(self._settings.ttl_s)
            self.forget_expired()

    def forget_expired(self) -> None:
        """Forget every key whose time is over."""
        now = self._clock()
        for place in [place for place, entry in self._entries.items() if now >= entry.expires_at_s]:
            del self._entries[place]

    def _keep(self, place: tuple[str, bytes, bytes, bytes], key: KeyPair) -> None:
        settings = self._settings
        if settings.max_entries == 0:
            return
        self._entries[place] = _Entry(key, self._clock() + settings.ttl_s, settings.max_uses - 1)
        if len(self._entries) > settings.max_entries:
            self._entries.popitem(last=False)


def _place(userid: str, record: SealedRecord) -> tuple[str, bytes, bytes, bytes]:
    return userid, record.statement, record.sealed_key, record.encrypted_data_key
