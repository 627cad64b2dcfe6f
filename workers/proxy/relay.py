"""One connection: two sockets, and bytes moved between them in both directions until both are done.

The sockets are driven through the loop's readiness callbacks and not through transports: bytes go from one kernel
buffer to the other by way of a single buffer that all connections share, and only what the receiver does not take at
once is copied and kept. While anything is kept its source is not read: that is the back-pressure, and it bounds the
memory of a direction by one buffer. An idle connection holds no buffer at all.
"""

import asyncio
import socket
from dataclasses import dataclass

from workers.proxy.causes import RelayEnd

BUFFER_BYTES = 128 * 1024
"""Size of the shared buffer: the most that one connection may move before the others get their turn."""


@dataclass(slots=True)
class ByteCount:
    """Bytes moved in one direction; shared by all connections of a destination."""

    total: int = 0


@dataclass(frozen=True, slots=True)
class RelayTimeouts:
    """How long a connection may go without a byte, when half closed without a byte, and last in all."""

    idle_s: float
    half_closed_s: float
    total_s: float


class _Direction:
    """Moves bytes from `source` to `sink`."""

    __slots__ = (
        "_count",
        "_kept",
        "_relay",
        "_sink",
        "_sink_lost",
        "_source",
        "_source_lost",
        "finished",
        "moved_bytes",
    )

    def __init__(
        self,
        relay: "Relay",
        source: socket.socket,
        sink: socket.socket,
        *,
        count: ByteCount,
        source_lost: RelayEnd,
        sink_lost: RelayEnd,
    ) -> None:
        self._relay = relay
        self._source = source
        self._sink = sink
        self._count = count
        self._source_lost = source_lost
        self._sink_lost = sink_lost
        self._kept = memoryview(b"")
        self.finished = False
        self.moved_bytes = 0

    def start(self) -> None:
        self._relay.loop.add_reader(self._source, self._readable)

    def stop(self) -> None:
        """Forget both sockets; safe to call twice. The caller closes them."""
        self._relay.loop.remove_reader(self._source)
        self._relay.loop.remove_writer(self._sink)

    def _readable(self) -> None:
        buffer = self._relay.buffer
        try:
            received = self._source.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._relay.end(self._source_lost)
            return
        if not received:
            self._finish()
            return
        rest = self._send(buffer[:received])
        if rest:
            self._kept = memoryview(bytes(rest))  # a copy: the buffer is everybody's
            self._relay.loop.remove_reader(self._source)
            self._relay.loop.add_writer(self._sink, self._writable)

    def _writable(self) -> None:
        self._kept = self._send(self._kept)
        if not self._kept and not self._relay.ended:
            self._relay.loop.remove_writer(self._sink)
            self._relay.loop.add_reader(self._source, self._readable)

    def _send(self, data: memoryview) -> memoryview:
        """Send until the receiver takes no more; return the rest. Ends the relay when the receiver is gone."""
        moved = 0
        try:
            while moved < len(data):  # on vsock a single send takes at most 31 KiB
                moved += self._sink.send(data[moved:])
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._relay.end(self._sink_lost)
            return data[:0]
        self._count.total += moved
        self.moved_bytes += moved
        self._relay.last_moved = self._relay.loop.time()
        return data[moved:]

    def _finish(self) -> None:
        """The source has closed its side: tell the sink, where its family can be told."""
        self.finished = True
        self._relay.loop.remove_reader(self._source)
        if self._sink.family == socket.AF_VSOCK:
            # A half-close does not cross vsock reliably: the enclave would wait for ever. End the whole connection.
            self._relay.direction_finished(last=True)
            return
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:  # reset in the meantime
            self._relay.end(self._sink_lost)
        else:
            self._relay.direction_finished(last=False)


class Relay:
    """Relays between an enclave's connection (`client`) and its destination (`upstream`); closes neither.

    Args:
        client: connected and non-blocking, as is `upstream`.
        upstream: the destination.
        buffer: shared by every relay of the loop; nothing stays in it between two callbacks.
        timeouts: see `RelayTimeouts`.
        up: counts the bytes from client to upstream.
        down: counts the bytes from upstream to client.
    """

    __slots__ = (
        "_closed_first",
        "_done",
        "_down",
        "_idle_end",
        "_idle_s",
        "_started",
        "_timeouts",
        "_timer",
        "_up",
        "buffer",
        "last_moved",
        "loop",
    )

    def __init__(
        self,
        client: socket.socket,
        upstream: socket.socket,
        *,
        buffer: memoryview,
        timeouts: RelayTimeouts,
        up: ByteCount,
        down: ByteCount,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = buffer
        self.last_moved = self._started = self.loop.time()
        self._timeouts = timeouts
        self._idle_s = timeouts.idle_s
        self._idle_end = RelayEnd.IDLE_TIMEOUT
        self._closed_first: RelayEnd | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[RelayEnd] = self.loop.create_future()
        client_lost, upstream_lost = RelayEnd.CLIENT_RESET, RelayEnd.UPSTREAM_RESET
        self._up = _Direction(self, client, upstream, count=up, source_lost=client_lost, sink_lost=upstream_lost)
        self._down = _Direction(self, upstream, client, count=down, source_lost=upstream_lost, sink_lost=client_lost)

    @property
    def ended(self) -> bool:
        """Whether the outcome is settled."""
        return self._done.done()

    @property
    def bytes_up(self) -> int:
        """Bytes moved from client to upstream."""
        return self._up.moved_bytes

    @property
    def bytes_down(self) -> int:
        """Bytes moved from upstream to client."""
        return self._down.moved_bytes

    async def run(self) -> RelayEnd:
        """Relay until both directions are done, or something ends it. The caller closes the sockets afterwards."""
        self._up.start()
        self._down.start()
        self._watch_time()
        try:
            return await self._done
        finally:
            self._forget()

    def drain(self, idle_s: float) -> None:
        """Let the exchange that is going on finish; end the connection once it says nothing for `idle_s`."""
        self._idle_s = min(self._idle_s, idle_s)
        self._idle_end = RelayEnd.DRAINED
        if not self.ended:
            self._watch_time()

    def end(self, why: RelayEnd) -> None:
        """Settle the outcome; the first reason stands."""
        if not self.ended:
            self._done.set_result(why)
            self._forget()

    def direction_finished(self, *, last: bool) -> None:
        """Note that one side has closed; `last` says that nothing can follow from the other."""
        if self._closed_first is None:
            self._closed_first = RelayEnd.CLIENT_CLOSED if self._up.finished else RelayEnd.UPSTREAM_CLOSED
            self._idle_s = min(self._idle_s, self._timeouts.half_closed_s)
            self.last_moved = self.loop.time()  # the close is news as well: the answer to it gets the whole time
            self._watch_time()
        if last or (self._up.finished and self._down.finished):
            self.end(self._closed_first)

    def _watch_time(self) -> None:
        """Check both time-outs now, and again at the earlier one: one timer a connection, nothing per byte."""
        if self._timer is not None:
            self._timer.cancel()
        idle_at = self.last_moved + self._idle_s
        total_at = self._started + self._timeouts.total_s
        if self.loop.time() >= min(idle_at, total_at):
            self.end(self._idle_end if idle_at <= total_at else RelayEnd.TOTAL_TIMEOUT)
        else:
            self._timer = self.loop.call_at(min(idle_at, total_at), self._watch_time)

    def _forget(self) -> None:
        self._up.stop()
        self._down.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
