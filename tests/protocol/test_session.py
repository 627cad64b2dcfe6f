"""The two session machines, driven by values alone: every transition, every breach, and late answers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.cbor import encode
from protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from protocol.framing import encode_frame
from protocol.messages import (
    MAX_REQUEST_ID,
    EnclaveFacts,
    Events,
    Generate,
    GenerateItem,
    Hello,
    HelloResult,
    Limits,
    Role,
    SetCredentialsResult,
    Status,
    StatusResult,
)
from protocol.session import (
    Answered,
    ClientEvent,
    ClientSession,
    Dropped,
    Malformed,
    Received,
    Refused,
    ServerEvent,
    ServerSession,
    SessionState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HELLO = Hello(versions=(1,), software="test")
STATUS_RESULT = StatusResult(ready=True, reason=None, credentials_expire_in_s=None, in_flight=0, counters={})


def hello_result(*, version: int = 1, max_frame_bytes: int = 1 << 20) -> HelloResult:
    """Return what an enclave says."""
    return HelloResult(
        version=version,
        limits=Limits(max_frame_bytes=max_frame_bytes, max_batch_items=10, max_in_flight=10),
        enclave=EnclaveFacts(
            role=Role.SIGNER,
            software="x",
            instance=bytes(16),
            module_id=None,
            pcr0=None,
            config_sha256=None,
            kms_key_arn=None,
            processes=1,
        ),
        ready=True,
        reason=None,
    )


def frame(**fields: Any) -> bytes:
    """Return a frame with any fields."""
    return encode_frame(encode({"v": 1, "id": 1, "type": "status", "body": {}} | fields))


def opened() -> tuple[ClientSession, ServerSession]:
    """Return two sessions after their hello."""
    client, server = ClientSession(), ServerSession()
    request_id, data = client.start(HELLO)
    [received] = server.receive_data(data)
    assert received == Received(request_id, HELLO)
    [answered] = client.receive_data(server.answer(request_id, hello_result()))
    assert answered == Answered(request_id, hello_result())
    assert (client.state, server.state) == (SessionState.OPEN, SessionState.OPEN)
    return client, server


def breach(session: ClientSession | ServerSession, data: bytes) -> RemoteProtocolError:
    """Return the error that some bytes cause, and check that it has closed the session."""
    events: list[ClientEvent | ServerEvent] = []
    with pytest.raises(RemoteProtocolError) as refused:
        events.extend(session.receive_data(data))
    assert session.state is SessionState.CLOSED
    return refused.value


# Hello


def test_hello_opens_both_ends() -> None:
    """NEW, GREETING, OPEN."""
    client = ClientSession()
    states = [client.state]
    client.start(HELLO)
    states.append(client.state)
    assert states == [SessionState.NEW, SessionState.GREETING]
    assert [session.state for session in opened()] == [SessionState.OPEN, SessionState.OPEN]


def test_hello_comes_first_and_once() -> None:
    """On the client any other order is a bug of ours; on the server it is the peer's breach."""
    with pytest.raises(LocalProtocolError):
        ClientSession().send(Status())
    client, server = opened()
    with pytest.raises(LocalProtocolError):
        client.start(HELLO)
    with pytest.raises(LocalProtocolError):
        client.send(HELLO)
    assert breach(server, frame(id=5, type="hello", body=HELLO.model_dump())).code is ErrorCode.BAD_FRAME
    assert breach(ServerSession(), frame(type="status")).code is ErrorCode.BAD_FRAME


def test_versions_that_do_not_overlap_name_both() -> None:
    """Whoever reads the log of either end learns what to update."""
    hello = Hello(versions=(7, 8), software="x").model_dump()
    error = breach(ServerSession(), frame(type="hello", body=hello))
    assert error.code is ErrorCode.UNSUPPORTED_VERSION
    assert "(7, 8)" in error.detail
    assert "(1,)" in error.detail
    client = ClientSession()
    client.start(HELLO)
    error = breach(client, ServerSession().fatal(ErrorCode.UNSUPPORTED_VERSION))
    assert "version 1 there, (1,) here" in error.detail


def test_the_enclave_must_choose_a_version_of_ours() -> None:
    """An enclave that picks another one is not talked to."""
    client, server = ClientSession(), ServerSession()
    request_id, data = client.start(HELLO)
    list(server.receive_data(data))
    error = breach(client, server.answer(request_id, hello_result(version=9)))
    assert error.code is ErrorCode.UNSUPPORTED_VERSION


def test_a_malformed_hello_closes() -> None:
    """There is nobody to answer to yet."""
    assert breach(ServerSession(), frame(type="hello", body={})).code is ErrorCode.BAD_FRAME


def test_a_refused_hello_leaves_the_session_greeting() -> None:
    """An overloaded enclave says so; nothing else may be sent after that."""
    client, server = ClientSession(), ServerSession()
    request_id, data = client.start(HELLO)
    list(server.receive_data(data))
    [event] = client.receive_data(server.refuse(request_id, ErrorCode.OVERLOADED))
    assert isinstance(event, Refused)
    assert event.error.code is ErrorCode.OVERLOADED
    with pytest.raises(LocalProtocolError):
        client.send(Status())


# Requests and answers


def test_answers_are_matched_by_id_in_any_order() -> None:
    """Many requests in flight, answered backwards."""
    client, server = opened()
    ids = []
    for _ in range(5):
        request_id, data = client.send(Status())
        ids.append(request_id)
        assert list(server.receive_data(data)) == [Received(request_id, Status())]
    assert (client.in_flight, server.in_flight) == (5, 5)
    stream = b"".join(server.answer(request_id, STATUS_RESULT) for request_id in reversed(ids))
    assert [event.request_id for event in client.receive_data(stream) if isinstance(event, Answered)] == ids[::-1]
    assert (client.in_flight, server.in_flight) == (0, 0)


def test_a_late_answer_is_dropped_by_id() -> None:
    """The answer to a request that was given up reaches nobody, whatever it holds."""
    client, server = opened()
    answers: list[Callable[[int], bytes]] = [
        lambda request_id: server.answer(request_id, STATUS_RESULT),
        lambda request_id: server.refuse(request_id, ErrorCode.INTERNAL),
        lambda request_id: server.answer(request_id, SetCredentialsResult(expires_in_s=1)),
    ]
    for answer in answers:
        request_id, data = client.send(Status())
        list(server.receive_data(data))
        client.abandon(request_id)
        assert list(client.receive_data(answer(request_id))) == [Dropped(request_id)]
        assert client.in_flight == 0


def test_to_abandon_what_is_not_in_flight_changes_nothing() -> None:
    """It is called for every call that ends, answered or not."""
    client, _ = opened()
    client.abandon(99)
    assert client.in_flight == 0


def test_an_error_is_an_answer() -> None:
    """A refused request comes back with its code."""
    client, server = opened()
    request_id, data = client.send(Status())
    list(server.receive_data(data))
    [event] = client.receive_data(server.refuse(request_id, ErrorCode.KMS_DENIED))
    assert isinstance(event, Refused)
    assert event.error.code is ErrorCode.KMS_DENIED


def test_ids_start_again_and_skip_those_in_flight() -> None:
    """After 2**32 requests an id comes again, but never while its first owner waits."""
    client, _ = opened()
    first, _ = client.send(Status())
    client._next_id = MAX_REQUEST_ID
    last, _ = client.send(Status())
    assert last == MAX_REQUEST_ID
    ids = [client.send(Status())[0] for _ in range(first)]
    assert first not in ids
    assert len(set(ids)) == first


def test_a_request_larger_than_the_enclave_takes_is_our_bug() -> None:
    """It is refused before it is sent, and leaves nothing in flight."""
    client, server = ClientSession(), ServerSession()
    request_id, data = client.start(HELLO)
    list(server.receive_data(data))
    list(client.receive_data(server.answer(request_id, hello_result(max_frame_bytes=100))))
    with pytest.raises(LocalProtocolError):
        client.send(Generate(items=tuple(GenerateItem(userid="u" * 100) for _ in range(10))))
    assert client.in_flight == 0


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(id=77, type="result"), id="an answer that nobody waits for"),
        pytest.param(frame(id=2, type="status"), id="a request from the enclave"),
        pytest.param(frame(id=2, type="result", body={"no": 1}), id="a result of another form"),
        pytest.param(frame(id=2, type="error", body={}), id="an error of another form"),
        pytest.param(frame(id=0, type="result"), id="a result with id 0"),
        pytest.param(frame(id=0, type="events", body={}), id="malformed events"),
        pytest.param(frame(id=0, type="error", body={"code": "overloaded", "retryable": True}), id="a fatal error"),
        pytest.param(frame(v=2), id="another version"),
        pytest.param(b"\0\0\0\1\xff", id="no CBOR"),
        pytest.param(b"\xff\xff\xff\xff", id="too long"),
    ],
)
def test_an_enclave_that_breaks_the_protocol_is_left(data: bytes) -> None:
    """Each breach is a RemoteProtocolError and closes the session."""
    client, _ = opened()
    request_id, _ = client.send(Status())
    assert request_id == 2
    breach(client, data)


def test_events_come_with_id_0_once_open() -> None:
    """Before the hello is answered there can be none."""
    client, server = opened()
    events = Events(events=({"event": "x"},), dropped=1)
    assert list(client.receive_data(server.notify(events))) == [events]
    greeting = ClientSession()
    greeting.start(HELLO)
    breach(greeting, server.notify(events))


def test_a_closed_client_sends_nothing() -> None:
    """Closed is closed."""
    client, _ = opened()
    client.close()
    with pytest.raises(LocalProtocolError):
        client.send(Status())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(id=0), id="the connection's id"),
        pytest.param(frame(id=9) + frame(id=9), id="an id that is in flight"),
        pytest.param(frame(v=3), id="another version"),
        pytest.param(frame(extra=1), id="an unknown field"),
        pytest.param(encode_frame(b"\x81" * 1000), id="deep"),
        pytest.param(encode_frame(bytes.fromhex("bb00ffffffffffffff")), id="huge"),
    ],
)
def test_a_parent_that_breaks_the_protocol_is_left(data: bytes) -> None:
    """Each breach is a RemoteProtocolError and closes the session."""
    _, server = opened()
    breach(server, data)


def test_a_malformed_request_is_answered_alone() -> None:
    """Its envelope is whole, so its neighbours need not suffer; it counts as in flight until it is answered."""
    client, server = opened()
    request_id, good = client.send(Status())
    stream = frame(id=100, type="sing") + frame(id=101, type="sign", body={"itmes": []}) + good
    unknown, wrong, received = server.receive_data(stream)
    assert isinstance(unknown, Malformed)
    assert isinstance(wrong, Malformed)
    assert (unknown.request_id, unknown.error.code) == (100, ErrorCode.BAD_REQUEST)
    assert (wrong.request_id, wrong.error.code) == (101, ErrorCode.BAD_REQUEST)
    assert received == Received(request_id, Status())
    assert server.in_flight == 3
    server.refuse(100, ErrorCode.BAD_REQUEST)
    assert server.in_flight == 2
    assert server.state is SessionState.OPEN


def test_a_request_is_answered_once() -> None:
    """A second answer, or one to nobody, is a bug of ours."""
    client, server = opened()
    request_id, data = client.send(Status())
    list(server.receive_data(data))
    server.answer(request_id, STATUS_RESULT)
    with pytest.raises(LocalProtocolError):
        server.answer(request_id, STATUS_RESULT)
    with pytest.raises(LocalProtocolError):
        server.refuse(request_id, ErrorCode.INTERNAL)


def test_a_result_larger_than_a_frame_leaves_the_request_open() -> None:
    """So that it can still be answered with an error."""
    server = ServerSession(max_frame_bytes=400)
    list(server.receive_data(frame(id=1, type="hello", body=HELLO.model_dump())))
    huge = STATUS_RESULT.model_copy(update={"counters": {str(number): number for number in range(1000)}})
    with pytest.raises(LocalProtocolError):
        server.answer(1, huge)
    assert server.refuse(1, ErrorCode.INTERNAL)


def test_fatal_closes() -> None:
    """After it nothing more is said."""
    _, server = opened()
    assert server.fatal(ErrorCode.BAD_FRAME)
    assert server.state is SessionState.CLOSED


def test_a_half_frame_is_told() -> None:
    """The shell keeps time on it."""
    _, server = opened()
    list(server.receive_data(frame(id=5)[:-1]))
    assert not server.is_between_frames


@given(st.binary(max_size=200), st.booleans())
def test_only_the_declared_error_comes_out(data: bytes, framed: bool) -> None:  # noqa: FBT001 - both ways are tried
    """Any bytes at all, at any end, in any state."""
    stream = encode_frame(data) if framed and data else data
    client, server = opened()
    greeting = ClientSession()
    greeting.start(HELLO)
    for session in (client, server, greeting, ServerSession()):
        with contextlib.suppress(RemoteProtocolError):
            list(session.receive_data(stream))


class Conversation(RuleBasedStateMachine):
    """Requests, answers, refusals and given-up calls in any order, over a stream that is cut anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.client, self.server = opened()
        self.to_server = b""
        self.to_client = b""
        self.at_server: list[int] = []
        self.waiting: set[int] = set()
        self.given_up: set[int] = set()

    @rule()
    def send(self) -> None:
        """The parent asks."""
        request_id, data = self.client.send(Status())
        self.to_server += data
        self.waiting.add(request_id)

    @precondition(lambda self: self.to_server)
    @rule(share=st.floats(0, 1))
    def deliver_requests(self, share: float) -> None:
        """Some bytes reach the enclave."""
        count = 1 + int(share * (len(self.to_server) - 1))
        for event in self.server.receive_data(self.to_server[:count]):
            assert isinstance(event, Received)
            self.at_server.append(event.request_id)
        self.to_server = self.to_server[count:]

    @precondition(lambda self: self.at_server)
    @rule(choice=st.integers(min_value=0), is_error=st.booleans())
    def answer(self, choice: int, is_error: bool) -> None:  # noqa: FBT001 - hypothesis draws it
        """The enclave answers any of its requests."""
        request_id = self.at_server.pop(choice % len(self.at_server))
        self.to_client += (
            self.server.refuse(request_id, ErrorCode.INTERNAL)
            if is_error
            else self.server.answer(request_id, STATUS_RESULT)
        )

    @precondition(lambda self: self.waiting)
    @rule(choice=st.integers(min_value=0))
    def give_up(self, choice: int) -> None:
        """A caller is cancelled."""
        request_id = sorted(self.waiting)[choice % len(self.waiting)]
        self.client.abandon(request_id)
        self.waiting.remove(request_id)
        self.given_up.add(request_id)

    @precondition(lambda self: self.to_client)
    @rule(share=st.floats(0, 1))
    def deliver_answers(self, share: float) -> None:
        """Some bytes reach the parent: each answer is for who waits, or dropped for who gave up."""
        count = 1 + int(share * (len(self.to_client) - 1))
        for event in self.client.receive_data(self.to_client[:count]):
            assert not isinstance(event, Events)
            expected = self.given_up if isinstance(event, Dropped) else self.waiting
            expected.remove(event.request_id)
        self.to_client = self.to_client[count:]

    @invariant()
    def counts_agree(self) -> None:
        """Nothing is forgotten, nothing is kept."""
        assert self.client.in_flight == len(self.waiting) + len(self.given_up)
        assert self.server.in_flight == len(self.at_server)


TestConversation = Conversation.TestCase
