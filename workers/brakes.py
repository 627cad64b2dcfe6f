"""What holds signing back: a pause for everybody, a freeze for one user, a rate limit for each.

Pause and freezes are items of one small table, `userid` and nothing else that is read: operators put and delete them,
the signer's role may only read them. The pause switch is the item `*`, which no user id can be.

A brake that cannot be read holds: jobs stay on the queue, and none is answered wrongly.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from config.worker import BrakeSettings
from protocol.clock import Clock
from protocol.errors import ErrorCode, SignerError
from protocol.messages import SignItem
from workers.collector import Collector, fallible_collector
from workers.enclaves.calls import FromEnclave
from workers.keys.dynamodb import MAX_BATCH_KEYS, DynamoDbCalls

BRAKE_KEY: Final = "userid"
PAUSE_ITEM: Final = "*"
"""Not in `protocol.model.USERID_PATTERN`."""

_MAX_USERS: Final = 100_000
"""Remembered at most by each cache here, the least used forgotten first: a bound on memory, 10 to 20 MB."""

_COLLECT_S: Final = 0.002

log = structlog.get_logger()


class PauseSwitch:
    """A gate that an operator closes (`workers.queue.gate.Gate`). Closed until it was read, and when it cannot be read.

    `clock` gives monotonic seconds.
    """

    def __init__(self, calls: DynamoDbCalls, table: str, settings: BrakeSettings, clock: Clock) -> None:
        self._calls = calls
        self._table = table
        self._settings = settings
        self._clock = clock
        self._open = asyncio.Event()
        self._read_at = clock()

    @property
    def is_open(self) -> bool:
        """Whether signing is not paused."""
        return self._open.is_set()

    async def wait_open(self) -> None:
        """Return once it is not."""
        await self._open.wait()

    async def run(self) -> None:
        """Read the switch every few seconds until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.pause_check_s)

    async def look(self) -> None:
        """Read the switch once."""
        try:
            is_paused = await self._calls.get(self._table, BRAKE_KEY, PAUSE_ITEM) is not None
        except SignerError:
            if self.is_open and self._clock() - self._read_at > self._settings.max_blind_s:
                log.exception("pause_switch_unreadable")
                self._open.clear()
            return
        self._read_at = self._clock()
        if is_paused and self.is_open:
            log.warning("signing_paused")
            self._open.clear()
        elif not is_paused and not self.is_open:
            log.info("signing_open")
            self._open.set()


class Freezes:
    """Who is frozen, as the table says, or said a few seconds ago. Reads of concurrent callers share their calls."""

    def __init__(
        self, calls: DynamoDbCalls, table: str, cache_s: float, group: asyncio.TaskGroup, clock: Clock
    ) -> None:
        self._calls = calls
        self._table = table
        self._cache_s = cache_s
        self._clock = clock
        self._read_at: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        self._reads: Collector[str, bool | SignerError] = fallible_collector(
            self._read, group, max_items=MAX_BATCH_KEYS, wait_s=_COLLECT_S
        )

    async def holding(self, userids: Sequence[str]) -> dict[str, SignerError]:
        """Return why users cannot sign: `frozen`, or `store_unavailable` when that could not be found out."""
        asked = dict.fromkeys(userids)
        now = self._clock()
        known = {userid: found[0] for userid in asked if (found := self._read_at.get(userid)) and found[1] > now}
        unknown = [userid for userid in asked if userid not in known]
        holding = {userid: SignerError(ErrorCode.FROZEN) for userid, is_frozen in known.items() if is_frozen}
        for userid, answer in zip(unknown, await self._reads.submit(unknown), strict=True):
            if isinstance(answer, SignerError):
                holding[userid] = answer
            elif answer:
                holding[userid] = SignerError(ErrorCode.FROZEN)
        return holding

    async def _read(self, userids: Sequence[str]) -> list[bool | SignerError]:
        asked_at = self._clock()
        items, unprocessed = await self._calls.get_batch(self._table, BRAKE_KEY, set(userids))
        for userid in set(userids) - unprocessed:
            self._read_at[userid] = userid in items, asked_at + self._cache_s
            self._read_at.move_to_end(userid)
        while len(self._read_at) > _MAX_USERS:
            self._read_at.popitem(last=False)
        unread = SignerError(ErrorCode.STORE_UNAVAILABLE)
        return [unread if userid in unprocessed else userid in items for userid in userids]


class RateLimit:
    """A token bucket for each user. Pure but for the clock, which gives monotonic seconds."""

    def __init__(self, per_s: float, burst: int, clock: Clock) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens, and when they were counted. A user who is not here has a full bucket."""

    def take(self, userid: str) -> bool:
        """Take one signature; return whether there was one left."""
        now = self._clock()
        tokens, counted_at = self._buckets.get(userid, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - counted_at) * self._per_s)
        is_allowed = tokens >= 1
        self._buckets[userid] = (tokens - is_allowed, now)
        self._buckets.move_to_end(userid)
        if len(self._buckets) > _MAX_USERS:
            self._buckets.popitem(last=False)
        return is_allowed


class Signers(Protocol):
    """The signer enclaves, see `workers.enclaves.pool`."""

    async def call(self, items: Sequence[SignItem]) -> list[FromEnclave[bytes] | SignerError]:
        """Return a signature or an error for each item."""
        ...


class BrakedSigners:
    """Signer enclaves behind the brakes: what is held never reaches an enclave."""

    def __init__(self, signers: Signers, freezes: Freezes | None, rate_limit: RateLimit | None) -> None:
        self._signers = signers
        self._freezes = freezes
        self._rate_limit = rate_limit

    async def call(self, items: Sequence[SignItem]) -> list[FromEnclave[bytes] | SignerError]:
        """Have items signed; return for each its signature, `frozen`, `rate_limited` or why it could not be signed."""
        frozen = await self._freezes.holding([item.userid for item in items]) if self._freezes else {}
        held = [frozen.get(item.userid) or self._limit(item.userid) for item in items]
        signed = iter(
            await self._signers.call([item for item, reason in zip(items, held, strict=True) if reason is None])
        )
        return [next(signed) if reason is None else reason for reason in held]

    def _limit(self, userid: str) -> SignerError | None:
        if self._rate_limit is None or self._rate_limit.take(userid):
            return None
        return SignerError(ErrorCode.RATE_LIMITED)
