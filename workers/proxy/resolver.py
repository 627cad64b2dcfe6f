"""DNS off the data path: a task looks a destination up again and again, connections use its last good answer.

getaddrinfo(3) tells no TTL, so the interval is configured (`dns_refresh_s`); an answer that leads nowhere asks for an
early look (`refresh_soon`). A failure keeps the last good answer; only the allow-list's refusal takes it away.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import structlog

from workers.proxy.allowlist import AllowList, host_key
from workers.proxy.causes import ConnectError, ConnectFailure, Refusal, RefusedError
from workers.proxy.metrics import DestinationMetrics

AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
"""As getaddrinfo gives it: family, type, protocol, canonical name, socket address."""

Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]
"""Looks up a host and port; raises OSError (`socket.gaierror` is one) or UnicodeError (a name that IDNA refuses)."""

_FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}


def system_lookup(ip_version: int | None) -> Lookup:
    """Return a lookup by the system's resolver, for one IP version (4 or 6) or for both."""
    family = _FAMILIES[ip_version]

    async def lookup(host: str, port: int) -> Sequence[AddressInfo]:
        # A daemon thread of its own: asyncio's executor is joined at exit, and a hanging DNS server would then hold the
        # process for libc's time-outs (resolv.conf(5): 5 s, 2 attempts, each server). There is one lookup at a time.
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[AddressInfo]] = loop.create_future()

        def settle(answer: Any, error: Exception | None) -> None:
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(answer)

        def work() -> None:
            answer, error = None, None
            try:
                answer = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            except (OSError, UnicodeError) as failure:
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(settle, answer, error)

        threading.Thread(target=work, name=f"dns-{host}", daemon=True).start()
        return await found

    return lookup


def allowed_lookup(lookup: Lookup, allow_list: AllowList) -> Lookup:
    """Return a lookup whose answers hold only addresses that the allow-list permits.

    It raises `RefusedError` when none is left.
    """

    async def addresses_of_listed_hosts(port: int) -> set[str]:
        addresses: set[str] = set()
        for host in allow_list.hosts_of_port(port):
            with contextlib.suppress(OSError, UnicodeError):  # one listed name that is gone must not close the others
                addresses.update(host_key(info[4][0]) for info in await lookup(host, port))
        return addresses

    async def only_allowed(host: str, port: int) -> Sequence[AddressInfo]:
        if allow_list.names(host, port):
            return await lookup(host, port)
        if not allow_list.hosts_of_port(port):
            raise RefusedError(Refusal.NOT_ALLOWED)
        answer = await lookup(host, port)
        permitted = await addresses_of_listed_hosts(port)
        allowed = [info for info in answer if host_key(info[4][0]) in permitted]
        if not allowed:
            raise RefusedError(Refusal.NOT_ALLOWED)
        return allowed

    return only_allowed


class Resolver:
    """The addresses of one destination, kept fresh by `run`."""

    def __init__(
        self, host: str, port: int, *, lookup: Lookup, refresh_s: float, retry_s: float, metrics: DestinationMetrics
    ) -> None:
        self._host = host
        self._port = port
        self._lookup = lookup
        self._refresh_s = refresh_s
        self._retry_s = retry_s
        self._answer: tuple[AddressInfo, ...] = ()
        self._refused: RefusedError | None = None
        self._failing = False
        self._looked = asyncio.Event()
        self._wanted = asyncio.Event()
        self._log = structlog.get_logger().bind(destination=metrics.destination)
        self._metrics = metrics

    async def run(self) -> None:
        """Look up for ever; cancel it to end it."""
        while True:
            self._wanted.clear()
            await self._look_up()
            self._looked.set()
            await asyncio.sleep(self._retry_s)  # also the shortest distance between two lookups
            if not self._failing:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._refresh_s - self._retry_s)):
                        await self._wanted.wait()

    async def addresses(self) -> tuple[AddressInfo, ...]:
        """Return the last good answer, waiting only for the very first lookup.

        Raises:
            ConnectError: there has never been a good answer.
            RefusedError: the allow-list permits none of the addresses.
        """
        await self._looked.wait()
        if self._refused is not None:
            raise RefusedError(self._refused.cause)
        if not self._answer:
            raise ConnectError(ConnectFailure.DNS)
        return self._answer

    def refresh_soon(self) -> None:
        """Ask for a lookup before its time: none of the addresses works."""
        self._wanted.set()

    async def _look_up(self) -> None:
        try:
            found = tuple(await self._lookup(self._host, self._port))
        except RefusedError as refused:
            if self._refused is None:
                self._log.error("destination_not_allowed", cause=refused.cause)
            self._answer, self._refused, self._failing = (), refused, False
        except Exception as error:  # noqa: BLE001 - a name that cannot be looked up must never end the process
            self._failed(type(error).__name__)
        else:
            if found:
                self._succeeded(found)
            else:
                self._failed("empty_answer")

    def _failed(self, error: str) -> None:
        self._metrics.dns_failures += 1
        if not self._failing:  # once per outage: the counter has the rest
            self._log.warning("dns_failed", error=error, addresses=len(self._answer))
        self._failing = True

    def _succeeded(self, found: tuple[AddressInfo, ...]) -> None:
        if set(found) != set(self._answer) or self._failing:
            self._log.info("dns_answered", addresses=len(found))
        self._answer, self._refused, self._failing = found, None, False
