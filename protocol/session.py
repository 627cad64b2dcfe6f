"""The two ends of a connection as value machines: bytes in, events out; values in, bytes out. No I/O, no clock.

client:  NEW --start--> GREETING --hello answered--> OPEN --fatal error, close--> CLOSED
server:  NEW --hello--> OPEN --broken by the peer--> CLOSED
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, SignerError
from protocol.framing import DEFAULT_MAX_FRAME_BYTES, FrameDecoder, encode_frame
from protocol.messages import (
    CONNECTION_ID,
    ERROR_TYPE,
    EVENTS_TYPE,
    MAX_REQUEST_ID,
    REQUEST_TYPES,
    REQUESTS,
    RESULT_TYPE,
    RESULTS,
    SUPPORTED_VERSIONS,
    Envelope,
    ErrorBody,
    Events,
    Hello,
    HelloResult,
    Request,
    Result,
    decode_body,
    decode_envelope,
    encode_envelope,
)


class SessionState(Enum):
    """Where a session is; the table above says how it gets there."""

    NEW = auto()
    GREETING = auto()
    OPEN = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Answered:
    """The enclave answered a request."""

    request_id: int
    result: Result


@dataclass(frozen=True, slots=True)
class Refused:
    """The enclave answered a request with an error."""

    request_id: int
    error: SignerError


@dataclass(frozen=True, slots=True)
class Dropped:
    """A late answer to a request that the caller has given up."""

    request_id: int


ClientEvent: TypeAlias = Answered | Refused | Dropped | Events


class ClientSession:
    """The parent's end of one connection."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self.state = SessionState.NEW
        self._decoder = FrameDecoder(max_frame_bytes)
        self._max_send_bytes = max_frame_bytes
        self._next_id = 1
        self._in_flight: dict[int, type[Request] | None] = {}
        """Each request without an answer: its type, or None once its caller gave it up."""

    @property
    def in_flight(self) -> int:
        """How many requests have no answer yet, given up or not."""
        return len(self._in_flight)

    def start(self, hello: Hello) -> tuple[int, bytes]:
        """Return the id and the frame of the first request."""
        if self.state is not SessionState.NEW:
            raise LocalProtocolError("hello is the first request and comes once")
        self.state = SessionState.GREETING
        return self._send(hello)

    def send(self, request: Request) -> tuple[int, bytes]:
        """Return the id and the frame of a request.

        Raises:
            LocalProtocolError: not open, a second hello, or larger than what the enclave takes.
        """
        if self.state is not SessionState.OPEN or isinstance(request, Hello):
            raise LocalProtocolError(f"no {type(request).__name__} while the session is {self.state.name}")
        return self._send(request)

    def _send(self, request: Request) -> tuple[int, bytes]:
        while (request_id := self._next_id) in self._in_flight:  # ids start again after 2**32 requests
            self._next_id = request_id % MAX_REQUEST_ID + 1
        frame = encode_frame(encode_envelope(request_id, REQUEST_TYPES[type(request)], request), self._max_send_bytes)
        self._next_id = request_id % MAX_REQUEST_ID + 1
        self._in_flight[request_id] = type(request)
        return request_id, frame

    def abandon(self, request_id: int) -> None:
        """Give a request up: its answer will be dropped when it comes."""
        if request_id in self._in_flight:
            self._in_flight[request_id] = None

    def receive_data(self, data: bytes) -> Iterator[ClientEvent]:
        """Take bytes as they came; yield what they mean.

        Raises:
            RemoteProtocolError: the enclave broke the protocol, or told that we did; the session is closed.
        """
        try:
            for body in self._decoder.receive_data(data):
                yield self._receive(decode_envelope(body))
        except RemoteProtocolError:
            self.state = SessionState.CLOSED
            raise

    def _receive(self, envelope: Envelope) -> ClientEvent:
        if envelope.id == CONNECTION_ID:
            return self._receive_about_connection(envelope)
        if envelope.id not in self._in_flight:
            raise RemoteProtocolError(
                ErrorCode.BAD_FRAME, f"an answer to request {envelope.id}, which is not in flight"
            )
        request_type = self._in_flight.pop(envelope.id)
        if request_type is None:
            return Dropped(envelope.id)
        if envelope.type == ERROR_TYPE:
            return Refused(envelope.id, decode_body(ErrorBody, envelope.body).to_error())
        if envelope.type != RESULT_TYPE:
            raise RemoteProtocolError(ErrorCode.BAD_FRAME, "type: an answer is a result or an error")
        result = decode_body(RESULTS[request_type], envelope.body)
        if isinstance(result, HelloResult):
            self._greet(result)
        return Answered(envelope.id, result)

    def _receive_about_connection(self, envelope: Envelope) -> Events:
        if envelope.type == EVENTS_TYPE and self.state is SessionState.OPEN:
            return decode_body(Events, envelope.body)
        if envelope.type == ERROR_TYPE:
            error = decode_body(ErrorBody, envelope.body).to_error()
            versions = f" (version {envelope.v} there, {SUPPORTED_VERSIONS} here)"
            detail = error.detail + (versions if error.code is ErrorCode.UNSUPPORTED_VERSION else "")
            raise RemoteProtocolError(error.code, f"the enclave closes the connection: {detail}")
        raise RemoteProtocolError(ErrorCode.BAD_FRAME, "type: id 0 is for events and connection errors")

    def _greet(self, hello: HelloResult) -> None:
        if hello.version not in SUPPORTED_VERSIONS:
            raise RemoteProtocolError(
                ErrorCode.UNSUPPORTED_VERSION,
                f"the enclave chose version {hello.version}, we speak {SUPPORTED_VERSIONS}",
            )
        self._max_send_bytes = min(self._max_send_bytes, hello.limits.max_frame_bytes)
        self.state = SessionState.OPEN

    def close(self) -> None:
        """Nothing more will be sent or received."""
        self.state = SessionState.CLOSED


@dataclass(frozen=True, slots=True)
class Received:
    """A request came."""

    request_id: int
    request: Request


@dataclass(frozen=True, slots=True)
class Malformed:
    """A request came whose envelope is whole but whose body is not; it is answered alone."""

    request_id: int
    error: SignerError


ServerEvent: TypeAlias = Received | Malformed


class ServerSession:
    """The enclave's end of one connection."""

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self.state = SessionState.NEW
        self._max_frame_bytes = max_frame_bytes
        self._decoder = FrameDecoder(max_frame_bytes)
        self._in_flight: set[int] = set()

    @property
    def in_flight(self) -> int:
        """How many requests are not answered yet."""
        return len(self._in_flight)

    @property
    def is_between_frames(self) -> bool:
        """Whether no frame is half received."""
        return self._decoder.is_between_frames

    def receive_data(self, data: bytes) -> Iterator[ServerEvent]:
        """Take bytes as they came; yield the requests in them.

        Raises:
            RemoteProtocolError: the parent broke the protocol; `fatal` says it to the peer, then close.
        """
        try:
            for body in self._decoder.receive_data(data):
                yield self._receive(decode_envelope(body))
        except RemoteProtocolError:
            self.state = SessionState.CLOSED
            raise

    def _receive(self, envelope: Envelope) -> ServerEvent:
        if envelope.id == CONNECTION_ID or envelope.id in self._in_flight:
            raise RemoteProtocolError(ErrorCode.BAD_FRAME, f"id: {envelope.id} is reserved or in flight")
        is_hello = envelope.type == REQUEST_TYPES[Hello]
        if is_hello != (self.state is SessionState.NEW):
            raise RemoteProtocolError(ErrorCode.BAD_FRAME, "type: hello is the first request and comes once")
        self._in_flight.add(envelope.id)
        model = REQUESTS.get(envelope.type)
        if model is None:
            return Malformed(envelope.id, SignerError(ErrorCode.BAD_REQUEST, "type: unknown request"))
        try:
            request = decode_body(model, envelope.body)
        except RemoteProtocolError as error:
            if is_hello:
                raise
            return Malformed(envelope.id, SignerError(ErrorCode.BAD_REQUEST, error.detail))
        if isinstance(request, Hello):
            self._greet(request)
        return Received(envelope.id, request)

    def _greet(self, hello: Hello) -> None:
        if not set(hello.versions) & set(SUPPORTED_VERSIONS):
            raise RemoteProtocolError(
                ErrorCode.UNSUPPORTED_VERSION,
                f"the peer speaks versions {hello.versions}, we speak {SUPPORTED_VERSIONS}",
            )
        self.state = SessionState.OPEN

    def answer(self, request_id: int, result: Result) -> bytes:
        """Return the frame that answers a request.

        Raises:
            LocalProtocolError: the request is not in flight, or the result is larger than a frame.
        """
        frame = encode_frame(encode_envelope(request_id, RESULT_TYPE, result), self._max_frame_bytes)
        self._settle(request_id)
        return frame

    def refuse(self, request_id: int, code: ErrorCode) -> bytes:
        """Return the frame that answers a request with an error.

        Raises:
            LocalProtocolError: the request is not in flight.
        """
        self._settle(request_id)
        return encode_frame(encode_envelope(request_id, ERROR_TYPE, ErrorBody.of(code)))

    def notify(self, events: Events) -> bytes:
        """Return the frame that carries log events."""
        return encode_frame(encode_envelope(CONNECTION_ID, EVENTS_TYPE, events), self._max_frame_bytes)

    def fatal(self, code: ErrorCode) -> bytes:
        """Return the frame after which the connection is closed."""
        self.state = SessionState.CLOSED
        return encode_frame(encode_envelope(CONNECTION_ID, ERROR_TYPE, ErrorBody.of(code)))

    def _settle(self, request_id: int) -> None:
        if request_id not in self._in_flight:
            raise LocalProtocolError(f"request {request_id} is not in flight")
        self._in_flight.remove(request_id)
