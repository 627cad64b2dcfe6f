"""The client without an event loop, in a thread of its own; in real time, since that thread has a loop of its own."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from protocol.errors import ErrorCode
from tests.workers.client.double import Service, failed, honest, key_of, settings
from tests.workers.queue.conftest import Fault
from workers.client import (
    ClientSettings,
    JobFailedError,
    NoAnswerError,
    SigningClient,
    SignRequest,
    SyncSigningClient,
)

PINNED = {"u1": key_of("u1").public_key}


def open_client(service: Service) -> SyncSigningClient:
    """Return a client of a service."""

    def make(chosen: ClientSettings) -> SigningClient:
        return SigningClient(chosen, connect=service.connect)

    return SyncSigningClient(settings(), make=make)


def test_calls_wait_for_their_answers(service: Service) -> None:
    """Key and signature come back as values."""
    with open_client(service) as client:
        key = client.generate("u1")
        assert client.sign("u1", b"m").key == key
        client.pin("u2", key_of("u2").public_key)
        assert client.sign("u2", "m").key.userid == "u2"
    assert service.made == []


def test_errors_come_out_as_they_are(service: Service) -> None:
    """With their codes; the client goes on working."""
    service.answer = lambda job: [failed(job, ErrorCode.FROZEN)]
    with open_client(service) as client:
        with pytest.raises(JobFailedError) as caught:
            client.generate("u1")
        assert caught.value.code is ErrorCode.FROZEN
        service.answer = lambda _job: []
        with pytest.raises(NoAnswerError):
            client.generate("u1", deadline_s=0.01)
        service.answer = lambda job: [honest(job)]
        client.generate("u1")


def test_many_at_once_and_a_loop_that_is_left_early(service: Service) -> None:
    """Results in the order of the requests; leaving cancels what is under way."""
    with open_client(service) as client:
        client.pin("u1", PINNED["u1"])
        wanted = [SignRequest("u1", f"{number}") for number in range(30)]
        results = list(client.sign_many(wanted))
        assert [result.request for result in results] == wanted
        assert {result.unwrap().key.userid for result in results} == {"u1"}
        for result in client.sign_many(SignRequest("u1", f"{number}") for number in count()):
            if result.request.message == "20":
                break


def test_a_client_that_cannot_open_says_why_in_the_callers_thread(service: Service) -> None:
    """And leaves no thread behind."""
    service.fail_next("create_queue", Fault(code="AccessDenied"))
    with pytest.raises(NoAnswerError, match="AccessDenied"):
        open_client(service).__enter__()
    assert not [thread for thread in threading.enumerate() if thread.name == "signing-client" and thread.is_alive()]
