"""DNS off the data path: kept answers, early looks, the allow-list on addresses."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from workers.proxy.allowlist import AllowedService, AllowList
from workers.proxy.causes import ConnectError, ConnectFailure, Refusal, RefusedError
from workers.proxy.metrics import DestinationMetrics
from workers.proxy.resolver import AddressInfo, Lookup, Resolver, allowed_lookup, system_lookup

_RETRY_S = 0.001


def _address(host: str, port: int = 443) -> AddressInfo:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


class _ScriptedDns:
    """Answers in turn what it was given, the last for ever, and lets a test wait for the n-th lookup to begin."""

    def __init__(self, *answers: Sequence[AddressInfo] | Exception) -> None:
        self._answers = answers
        self._asked = 0
        self._changed = asyncio.Condition()

    async def __call__(self, host: str, port: int) -> Sequence[AddressInfo]:
        assert (host, port) == ("kms.test", 443)
        answer = self._answers[min(self._asked, len(self._answers) - 1)]
        async with self._changed:
            self._asked += 1
            self._changed.notify_all()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def asked(self, times: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._asked >= times)


@asynccontextmanager
async def _running(
    lookup: Lookup, *, refresh_s: float = _RETRY_S
) -> AsyncGenerator[tuple[Resolver, DestinationMetrics]]:
    metrics = DestinationMetrics("kms.test:443")
    resolver = Resolver("kms.test", 443, lookup=lookup, refresh_s=refresh_s, retry_s=_RETRY_S, metrics=metrics)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(resolver.run())
        yield resolver, metrics
        task.cancel()


@pytest.mark.parametrize("failure", [socket.gaierror(-2, "unknown"), UnicodeError("label too long"), RuntimeError("x")])
async def test_a_failure_keeps_the_last_good_answer(failure: Exception) -> None:
    """Whatever a lookup raises, connections go on with what was known, and the failures are counted."""
    dns = _ScriptedDns([_address("192.0.2.1")], failure)
    async with _running(dns) as (resolver, metrics):
        await dns.asked(3)
        assert await resolver.addresses() == (_address("192.0.2.1"),)
        assert metrics.dns_failures >= 1


async def test_an_empty_answer_is_a_failure() -> None:
    """An answer without addresses does not replace one with addresses."""
    dns = _ScriptedDns([_address("192.0.2.1")], [])
    async with _running(dns) as (resolver, metrics):
        await dns.asked(3)
        assert await resolver.addresses() == (_address("192.0.2.1"),)
        assert metrics.dns_failures >= 1


async def test_a_change_is_followed() -> None:
    """After the refresh interval connections get the new addresses."""
    dns = _ScriptedDns([_address("192.0.2.1")], [_address("192.0.2.2")])
    async with _running(dns) as (resolver, _):
        await dns.asked(3)
        assert await resolver.addresses() == (_address("192.0.2.2"),)


async def test_a_first_failure_is_told_at_once_and_cured_later() -> None:
    """Without any good answer a connection fails with the cause dns; the next good answer cures it."""
    dns = _ScriptedDns(socket.gaierror(-3, "again"), [_address("192.0.2.1")])
    async with _running(dns) as (resolver, _):
        with pytest.raises(ConnectError) as caught:
            await resolver.addresses()
        assert caught.value.cause is ConnectFailure.DNS
        await dns.asked(3)
        assert await resolver.addresses() == (_address("192.0.2.1"),)


async def test_an_early_look_is_taken_when_asked_for() -> None:
    """When no address works the answer is renewed long before its interval is over."""
    dns = _ScriptedDns([_address("192.0.2.1")], [_address("192.0.2.2")])
    async with _running(dns, refresh_s=86400) as (resolver, _):
        assert await resolver.addresses() == (_address("192.0.2.1"),)
        resolver.refresh_soon()
        await dns.asked(2)
        assert await resolver.addresses() == (_address("192.0.2.2"),)


async def test_a_hanging_lookup_holds_nobody_up() -> None:
    """While a later lookup hangs, connections get the known answer without waiting."""
    hanging = asyncio.Event()

    async def lookup(host: str, port: int) -> Sequence[AddressInfo]:
        if not hanging.is_set():
            hanging.set()
            return [_address("192.0.2.1", port)]
        await asyncio.Event().wait()
        raise AssertionError(host)

    async with _running(lookup) as (resolver, _):
        await hanging.wait()
        assert await resolver.addresses() == (_address("192.0.2.1"),)


def _table(**hosts: str) -> Lookup:
    async def lookup(host: str, port: int) -> Sequence[AddressInfo]:
        try:
            return [_address(ip, port) for ip in hosts[host.replace(".test", "")].split()]
        except KeyError:
            raise socket.gaierror(-2, "unknown") from None

    return lookup


def _listed(*services: tuple[str, int]) -> AllowList:
    return AllowList.of(AllowedService(address=host, port=port) for host, port in services)


async def test_a_listed_address_allows_a_name_that_resolves_to_it() -> None:
    """An entry that is an IP address, or a name with that address, admits the other name: as AWS's proxy matches."""
    dns = _table(kms="192.0.2.1", alias="192.0.2.1")
    for entry in ("192.0.2.1", "alias.test"):
        lookup = dns if entry != "192.0.2.1" else _with_literals(dns)
        allowed = allowed_lookup(lookup, _listed(("gone.test", 443), (entry, 443)))
        assert await allowed("kms.test", 443) == [_address("192.0.2.1")]


def _with_literals(lookup: Lookup) -> Lookup:
    async def literal_too(host: str, port: int) -> Sequence[AddressInfo]:
        return [_address(host, port)] if host[0].isdigit() else await lookup(host, port)

    return literal_too


async def test_only_the_listed_addresses_are_left() -> None:
    """A name with one listed and one other address may be reached by the listed one only."""
    dns = _table(kms="192.0.2.1 192.0.2.9", alias="192.0.2.1")
    assert await allowed_lookup(dns, _listed(("alias.test", 443)))("kms.test", 443) == [_address("192.0.2.1")]


@pytest.mark.parametrize("listed", [("alias.test", 444), ("other.test", 443), ("gone.test", 443)])
async def test_an_unlisted_destination_is_refused(listed: tuple[str, int]) -> None:
    """Another port, another address and a listed name that is gone admit nothing."""
    dns = _table(kms="192.0.2.1", alias="192.0.2.1", other="192.0.2.2")
    with pytest.raises(RefusedError) as caught:
        await allowed_lookup(dns, _listed(listed))("kms.test", 443)
    assert caught.value.cause is Refusal.NOT_ALLOWED


async def test_a_refusal_takes_the_answer_away() -> None:
    """An address that is no longer allowed is not kept as a last good answer."""
    dns = _ScriptedDns([_address("192.0.2.1")], RefusedError(Refusal.NOT_ALLOWED))
    async with _running(dns) as (resolver, _):
        assert await resolver.addresses() == (_address("192.0.2.1"),)
        await dns.asked(3)
        with pytest.raises(RefusedError):
            await resolver.addresses()


@pytest.mark.parametrize(("ip_version", "family"), [(None, socket.AF_INET), (4, socket.AF_INET)])
async def test_the_system_resolver_answers_in_getaddrinfos_form(ip_version: int | None, family: int) -> None:
    """An address literal comes back as one TCP address."""
    assert list(await system_lookup(ip_version)("127.0.0.1", 443)) == [
        (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 443))
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "a" * 64 + ".test"])
async def test_the_system_resolvers_failures_are_raised(host: str) -> None:
    """No address of the wanted version, and a label that no name may have, are errors of the documented kinds."""
    with pytest.raises((OSError, UnicodeError)):
        await system_lookup(6)(host, 443)
