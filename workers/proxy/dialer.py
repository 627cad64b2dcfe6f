"""Connects to a destination: every address tried, the slow ones overtaken (Happy Eyeballs, RFC 8305), one time-out."""

import asyncio
import errno
import socket

import aiohappyeyeballs

from workers.proxy.causes import ConnectError, ConnectFailure
from workers.proxy.resolver import AddressInfo, Resolver

_CAUSES = {
    errno.ECONNREFUSED: ConnectFailure.REFUSED,
    errno.ETIMEDOUT: ConnectFailure.TIMEOUT,
    errno.EHOSTUNREACH: ConnectFailure.UNREACHABLE,
    errno.ENETUNREACH: ConnectFailure.UNREACHABLE,
    errno.EMFILE: ConnectFailure.DESCRIPTORS,
    errno.ENFILE: ConnectFailure.DESCRIPTORS,
}


class Dialer:
    """Makes connections to one destination.

    Addresses that lost against a later one go to the end of the list while the answer stays the same, so that a dead
    first address costs its delay once and not on every connection.
    """

    def __init__(self, resolver: Resolver, *, timeout_s: float, attempt_delay_s: float) -> None:
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._attempt_delay_s = attempt_delay_s
        self._answer: tuple[AddressInfo, ...] = ()
        self._order: list[AddressInfo] = []

    async def connect(self) -> socket.socket:
        """Return a connected non-blocking TCP socket.

        Raises:
            ConnectError: no address took the connection in time, or there is none.
            RefusedError: the allow-list permits none.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = self._in_order(await self._resolver.addresses())
                sock = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=self._attempt_delay_s, interleave=1
                )
        except TimeoutError as error:
            self._resolver.refresh_soon()
            raise ConnectError(ConnectFailure.TIMEOUT) from error
        except OSError as error:
            self._resolver.refresh_soon()
            cause = _CAUSES.get(error.errno or 0, ConnectFailure.OTHER)
            raise ConnectError(cause, errno.errorcode.get(error.errno or 0, "")) from error
        try:
            self._remember(sock.getpeername())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a relay must not hold small writes back
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as error:  # reset between connect and here
            sock.close()
            raise ConnectError(ConnectFailure.OTHER, errno.errorcode.get(error.errno or 0, "")) from error
        return sock

    def _in_order(self, answer: tuple[AddressInfo, ...]) -> list[AddressInfo]:
        if answer != self._answer:
            self._answer, self._order = answer, list(answer)
        return self._order

    def _remember(self, winner: tuple[str, int]) -> None:
        for position, info in enumerate(self._order):
            if info[4][:2] == winner[:2]:
                self._order = self._order[position:] + self._order[:position]
                return
