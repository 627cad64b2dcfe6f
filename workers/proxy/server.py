"""One destination: accepts connections, refuses what it must, relays the rest, and drains when told to stop."""

import asyncio
import errno
from collections.abc import Callable

import structlog

from protocol.tasks import start_in
from protocol.transport import StreamSocket, peer_cid
from workers.proxy.allowlist import AllowList
from workers.proxy.causes import ConnectError, ConnectFailure, Refusal, RefusedError, RelayEnd
from workers.proxy.dialer import Dialer
from workers.proxy.metrics import DestinationMetrics
from workers.proxy.quiet import QuietLog
from workers.proxy.relay import Relay, RelayTimeouts
from workers.proxy.resolver import Lookup, Resolver, allowed_lookup
from workers.proxy.settings import Destination, ProxyLimits

_ACCEPTS_PER_TURN = 32
"""New connections taken before established ones get their turn: a burst must not hold up the traffic."""

_PAUSE_S = 0.1
"""Without a free descriptor accept(2) fails at once and for ever: wait until some connections have ended."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class DestinationServer:
    """Serves one destination on one listening socket.

    Args:
        destination: what to listen for and where to connect to.
        limits: bounds and time-outs.
        allow_list: decides what may be connected to.
        lookup: DNS; the allow-list is applied to its answers here.
        buffer: shared by all relays of the process.
    """

    def __init__(
        self,
        destination: Destination,
        limits: ProxyLimits,
        *,
        allow_list: AllowList,
        lookup: Lookup,
        buffer: memoryview,
    ) -> None:
        self.metrics = DestinationMetrics(destination.name)
        self._limits = limits
        self._buffer = buffer
        self._peer_cids = None if destination.peer_cids is None else frozenset(destination.peer_cids)
        self._timeouts = RelayTimeouts(limits.idle_timeout_s, limits.half_closed_timeout_s, limits.total_timeout_s)
        self._resolver = Resolver(
            destination.host,
            destination.port,
            lookup=allowed_lookup(lookup, allow_list),
            refresh_s=limits.dns_refresh_s,
            retry_s=limits.dns_retry_s,
            metrics=self.metrics,
        )
        self._dialer = Dialer(
            self._resolver, timeout_s=limits.connect_timeout_s, attempt_delay_s=limits.connect_attempt_delay_s
        )
        self._connections: dict[asyncio.Task[None], Relay | None] = {}  # None while it is connecting
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._draining = False
        self._log = structlog.get_logger().bind(destination=destination.name)
        self._quiet = QuietLog(self._log, asyncio.get_running_loop().time)

    async def run(self, listener: StreamSocket, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain; closes the listener."""
        async with asyncio.TaskGroup() as group:
            refreshing = group.create_task(self._resolver.run(), name="dns")
            connections = _Acceptor(listener, lambda client: self._admit(client, group), self._quiet)
            connections.start()
            try:
                await stop.wait()
            finally:
                connections.stop()
                listener.close()
            await self._drain()
            refreshing.cancel()

    def _admit(self, client: StreamSocket, group: asyncio.TaskGroup) -> None:
        """Decide at once whether the connection is served; a refused one is closed at once."""
        self.metrics.accepted += 1
        refusal = self._refusal(client)
        if refusal is not None:
            client.close()
            self._refused(refusal)
            return
        task = start_in(group, self._serve(client), name="connection")
        if task is None:  # the proxy is ending
            client.close()
            return
        self.metrics.open += 1
        self._none_open.clear()
        self._connections[task] = None

    def _refusal(self, client: StreamSocket) -> Refusal | None:
        if self._peer_cids is not None and not self._peer_allowed(client, self._peer_cids):
            return Refusal.PEER_CID
        if self.metrics.open >= self._limits.max_connections:
            return Refusal.CAPACITY
        return None

    @staticmethod
    def _peer_allowed(client: StreamSocket, allowed: frozenset[int]) -> bool:
        try:
            cid = peer_cid(client)
        except OSError:  # it has gone again: there is no peer to name
            return False
        return cid is None or cid in allowed

    async def _serve(self, client: StreamSocket) -> None:
        """Serve one connection to its end. Its failure is counted and logged, and reaches nobody else."""
        try:
            with client:
                await self._connect_and_relay(client)
        except RefusedError as refused:
            self._refused(refused.cause)
        except ConnectError as failure:
            self.metrics.failed[failure.cause] += 1
            self._quiet.warning("connect_failed", failure.cause, error=failure.detail)
        except Exception as error:  # noqa: BLE001 - a bug met by one connection must not end the others
            self.metrics.failed[ConnectFailure.INTERNAL] += 1
            self._quiet.warning("connection_crashed", ConnectFailure.INTERNAL, error=type(error).__name__)
        finally:
            self.metrics.open -= 1
            del self._connections[_this_task()]
            if self.metrics.open == 0:
                self._none_open.set()

    async def _connect_and_relay(self, client: StreamSocket) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with await self._dialer.connect() as upstream:
            connected = loop.time()
            connect_ms = round((connected - began) * 1000, 3)
            self.metrics.connected += 1
            self.metrics.connect_ms.add(connect_ms)
            relay = Relay(
                client,
                upstream,
                buffer=self._buffer,
                timeouts=self._timeouts,
                up=self.metrics.bytes_up,
                down=self.metrics.bytes_down,
            )
            self._connections[_this_task()] = relay
            if self._draining:
                relay.drain(self._limits.drain_idle_s)
            why = await relay.run()
        self.metrics.ended[why] += 1
        fields = {
            "connect_ms": connect_ms,
            "duration_ms": round((loop.time() - connected) * 1000),
            "bytes_up": relay.bytes_up,
            "bytes_down": relay.bytes_down,
        }
        if why.orderly:
            self._log.debug("connection_ended", cause=why, **fields)
        else:
            self._quiet.warning("connection_ended", why, **fields)

    def _refused(self, cause: Refusal) -> None:
        self.metrics.refused[cause] += 1
        self._quiet.warning("connection_refused", cause, open=self.metrics.open)

    async def _drain(self) -> None:
        """Let what is going on finish within the deadline, then end the rest."""
        self._log.info("draining", open=self.metrics.open)
        self._draining = True
        for relay in tuple(self._connections.values()):
            if relay is not None:
                relay.drain(self._limits.drain_idle_s)
        try:
            async with asyncio.timeout(self._limits.drain_timeout_s):
                await self._none_open.wait()
        except TimeoutError:
            self._log.warning("drain_deadline", open=self.metrics.open)
            for task, relay in tuple(self._connections.items()):
                if relay is not None:
                    relay.end(RelayEnd.DRAINED)
                else:
                    task.cancel()


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a connection is served in a task of its own")
    return task


class _Acceptor:
    """Takes new connections off a listening socket, a few a turn of the loop."""

    def __init__(self, listener: StreamSocket, admit: Callable[[StreamSocket], None], log: QuietLog) -> None:
        self._listener = listener
        self._admit = admit
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._resuming: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop.add_reader(self._listener, self._acceptable)

    def stop(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._resuming is not None:
            self._resuming.cancel()

    def _acceptable(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, _peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log.warning("accept_failed", errno.errorcode.get(error.errno or 0, "other"))
                if error.errno in _OUT_OF_RESOURCES:
                    self._loop.remove_reader(self._listener)
                    self._resuming = self._loop.call_later(_PAUSE_S, self.start)
                return
            self._admit(client)
