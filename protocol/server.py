"""The enclave's end of the wire: accepts connections, bounds what each may cost, and hands requests to a handler."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, SignerError
from protocol.framing import DEFAULT_MAX_FRAME_BYTES
from protocol.messages import Events, Hello, Request, Result
from protocol.session import Malformed, ServerSession, SessionState
from protocol.tasks import start_in
from protocol.transport import LISTEN_BACKLOG, StreamSocket


class RequestHandler(Protocol):
    """Values in, values out: what the requests do. It knows no sockets."""

    async def handle(self, request: Request) -> Result:
        """Do one request.

        Raises:
            SignerError: only its code reaches the peer.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What all connections together, and each of them, may cost."""

    max_connections: int = 64
    max_in_flight: int = 128
    """Requests at work in the whole process."""
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    frame_timeout_s: float = 10.0
    """How long a hello, or the rest of a frame that has begun, may take: a peer of one byte a second is cut off."""


class Server:
    """Serves connections until `serve` is cancelled."""

    def __init__(
        self, handler: RequestHandler, limits: ServerLimits, on_failure: Callable[[str, BaseException], None]
    ) -> None:
        """Take what the requests do, the limits, and where unexpected failures are told (a name and the error)."""
        self.handler = handler
        self.limits = limits
        self.on_failure = on_failure
        self.in_flight = 0
        self.has_ended = False
        self._tasks: asyncio.TaskGroup | None = None
        self._connections: set[_Connection] = set()

    async def serve(self, sock: StreamSocket) -> None:
        """Accept on a listening socket until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._tasks:
            server = await loop.create_server(lambda: _Connection(self), sock=sock, backlog=LISTEN_BACKLOG)
            try:
                await loop.create_future()  # not `serve_forever`: when cancelled it waits for connections, from 3.12 on
            finally:
                self.has_ended = True
                server.close()
                for connection in tuple(self._connections):
                    connection.abort()

    def admit(self, connection: "_Connection") -> bool:
        """Count a new connection; False when there are enough."""
        if len(self._connections) >= self.limits.max_connections:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: "_Connection") -> None:
        """Count a connection no longer."""
        self._connections.discard(connection)

    def start(self, connection: "_Connection", request_id: int, request: Request) -> asyncio.Task[None] | None:
        """Work on a request in a task of its own; None when the server is ending."""
        work = self._work(connection, request_id, request)
        task = start_in(cast("asyncio.TaskGroup", self._tasks), work, name="request")
        if task is None:
            return None
        self.in_flight += 1
        task.add_done_callback(self._count_done)  # runs for a task that was cancelled before its first step, too
        return task

    def _count_done(self, _: asyncio.Task[None]) -> None:
        self.in_flight -= 1

    async def _work(self, connection: "_Connection", request_id: int, request: Request) -> None:
        try:
            result = await self.handler.handle(request)
        except SignerError as error:
            connection.refuse(request_id, error.code)
        except Exception as error:  # noqa: BLE001 - a bug in one request must not end the others; it is reported
            self.on_failure("request_failed", error)
            connection.refuse(request_id, ErrorCode.INTERNAL)
        else:
            connection.answer(request_id, result)

    def publish(self, events: Events) -> bool:
        """Send log events over the first connection that asked for them; False when none can take them."""
        return any(connection.notify(events) for connection in tuple(self._connections))


class _Connection(asyncio.Protocol):
    """One connection: feeds the session, keeps its time limit, and stops reading while the peer does not read."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session = ServerSession(server.limits.max_frame_bytes)
        self._work: dict[int, asyncio.Task[None]] = {}
        self._deadline: asyncio.TimerHandle | None = None
        self._wants_events = False
        self._is_writable = True
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it honestly."""
        self._transport = cast("asyncio.Transport", transport)
        if self._server.has_ended:  # asyncio had accepted it already
            self.abort()
        elif self._server.admit(self):
            self._arm_deadline()
        else:
            self._close_with(ErrorCode.OVERLOADED)

    def data_received(self, data: bytes) -> None:
        """Start what came whole; keep time on what is half here."""
        if self._session.state is SessionState.CLOSED:
            return
        is_new_frame = False
        try:
            for event in self._session.receive_data(data):
                is_new_frame = True
                if isinstance(event, Malformed):
                    self.refuse(event.request_id, event.error.code)
                elif self._server.in_flight >= self._server.limits.max_in_flight:
                    self.refuse(event.request_id, ErrorCode.OVERLOADED)
                else:
                    self._start(event.request_id, event.request)
        except RemoteProtocolError as error:
            self._close_with(error.code)
            return
        if is_new_frame or self._session.is_between_frames:
            self._disarm_deadline()  # what is half here now has begun just now
        if self._deadline is None and not self._session.is_between_frames:
            self._arm_deadline()

    def _start(self, request_id: int, request: Request) -> None:
        if isinstance(request, Hello):
            self._wants_events = request.events
        task = self._server.start(self, request_id, request)
        if task is None:
            self.abort()
            return
        self._work[request_id] = task
        task.add_done_callback(lambda _: self._work.pop(request_id, None))

    def _arm_deadline(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(
            self._server.limits.frame_timeout_s, self._close_with, ErrorCode.DEADLINE_EXCEEDED
        )

    def _disarm_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def answer(self, request_id: int, result: Result) -> None:
        """Send a result; one that is larger than a frame is our fault and becomes `internal`."""
        if self._session.state is SessionState.CLOSED:
            return
        try:
            frame = self._session.answer(request_id, result)
        except LocalProtocolError as error:
            self._server.on_failure("answer_too_large", error)
            frame = self._session.refuse(request_id, ErrorCode.INTERNAL)
        self._transport.write(frame)

    def refuse(self, request_id: int, code: ErrorCode) -> None:
        """Send an error."""
        if self._session.state is not SessionState.CLOSED:
            self._transport.write(self._session.refuse(request_id, code))

    def notify(self, events: Events) -> bool:
        """Send log events if this peer asked for them and reads."""
        if not (self._wants_events and self._is_writable and self._session.state is SessionState.OPEN):
            return False
        self._transport.write(self._session.notify(events))
        return True

    def _close_with(self, code: ErrorCode) -> None:
        """Tell the code and close; a peer that does not even read that is cut off after the time limit."""
        self._disarm_deadline()
        self._transport.write(self._session.fatal(code))
        self._transport.close()
        self._deadline = asyncio.get_running_loop().call_later(self._server.limits.frame_timeout_s, self.abort)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_writing(self) -> None:
        """Read no more requests from a peer that does not read its answers."""
        self._is_writable = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read requests again."""
        self._is_writable = True
        self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Close when the peer stops sending: half a connection is of no use here."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the work that nobody waits for."""
        del exc
        self._session.state = SessionState.CLOSED
        self._disarm_deadline()
        self._server.forget(self)
        for task in self._work.values():
            task.cancel()
