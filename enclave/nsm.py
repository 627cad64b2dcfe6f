"""The Nitro Secure Module for async code: one codec over any transport, off the event loop, with a deadline."""

import functools
from typing import Protocol, TypeVar

from enclave import nsm_codec
from enclave.nsm_codec import Exchange, NsmDescription, NsmError, NsmErrorCode, PcrState
from enclave.one_thread import CallTimeoutError, OneThread
from protocol.attestation import TrustRoot

T = TypeVar("T")

DEFAULT_DEADLINE_S = 10.0
"""An answer takes milliseconds. The driver itself gives up after 120 s, far too late for a job."""


class NsmTransport(Protocol):
    """The way to one module: a blocking call, CBOR in and CBOR out, called from one thread at a time."""

    @property
    def trust_root(self) -> TrustRoot:
        """The root of this module's documents. It comes with the transport, so that real code meets no test root."""
        ...

    def __call__(self, request: bytes) -> bytes:
        """Return the response to a request, or raise `NsmError`."""
        ...


class Nsm:
    """One Nitro Secure Module, for one event loop.

    Each method raises `NsmError`; with code TIMED_OUT when no answer comes within the deadline, and then at once for
    every further request until the overdue one has come back.
    """

    def __init__(self, transport: NsmTransport, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        self._transport = transport
        self._thread: OneThread[bytes] = OneThread("nsm", deadline_s=deadline_s)

    @property
    def trust_root(self) -> TrustRoot:
        """The root to which this module's documents verify."""
        return self._transport.trust_root

    async def describe(self) -> NsmDescription:
        """Return what the module says of itself."""
        return await self._exchange(nsm_codec.describe_nsm())

    async def describe_pcr(self, index: int) -> PcrState:
        """Return one PCR, 0 to 31."""
        return await self._exchange(nsm_codec.describe_pcr(index))

    async def extend_pcr(self, index: int, data: bytes) -> bytes:
        """Extend an unlocked PCR (16 to 31 are free at start) and return its new value."""
        return await self._exchange(nsm_codec.extend_pcr(index, data))

    async def lock_pcr(self, index: int) -> None:
        """Lock one PCR: it keeps its value, and documents carry it from now on."""
        await self._exchange(nsm_codec.lock_pcr(index))

    async def lock_pcrs(self, end: int) -> None:
        """Lock every PCR below `end`."""
        await self._exchange(nsm_codec.lock_pcrs(end))

    async def random(self, count_bytes: int) -> bytes:
        """Return random bytes, with as many requests as that takes."""
        drawn = b""
        while len(drawn) < count_bytes:
            more = await self._exchange(nsm_codec.get_random())
            drawn += more
        return drawn[:count_bytes]

    async def attest(self, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
        """Return a signed attestation document; each field has at most 1024 bytes."""
        return await self._exchange(nsm_codec.attestation(user_data=user_data, nonce=nonce, public_key=public_key))

    def close(self) -> None:
        """End the module's thread. Nothing is asked after this."""
        self._thread.close()

    async def _exchange(self, exchange: Exchange[T]) -> T:
        try:
            response = await self._thread.run(functools.partial(self._transport, exchange.request))
        except CallTimeoutError as error:
            raise NsmError(NsmErrorCode.TIMED_OUT, f"{exchange.name}: {error}") from error
        return exchange.read(response)
