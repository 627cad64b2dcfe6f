"""The recipient: documents and keys used again within their times, renewed before, and after a failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.enclave import AttestationSettings
from enclave.nsm_codec import NsmError
from enclave.recipient import Recipient, RecipientSource
from protocol.attestation import parse_document
from tests.enclave.parts import Switch, Time, captured, make_nsm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave.nsm import Nsm


@pytest.fixture
def time() -> Time:
    """Give a clock."""
    return Time()


@pytest.fixture
def switch(time: Time) -> Switch:
    """Give a module that can break."""
    return Switch(time)


@pytest.fixture
def nsm(switch: Switch) -> Iterator[Nsm]:
    """Give its asynchronous side."""
    made = make_nsm(switch)
    yield made
    made.close()


def source(nsm: Nsm, time: Time, *, document_ttl_s: float = 60.0, key_ttl_s: float = 600.0) -> RecipientSource:
    """Make a source."""
    return RecipientSource(nsm, AttestationSettings(document_ttl_s=document_ttl_s, recipient_key_ttl_s=key_ttl_s), time)


def public_key(recipient: Recipient) -> bytes:
    """Return the public half as the document has it."""
    return recipient.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def test_the_document_vouches_for_the_key(nsm: Nsm, time: Time) -> None:
    """Its public key is the key's, and it has no user data: it can never pass for a birth or a live document."""
    recipient = await source(nsm, time).current()
    document = parse_document(recipient.document)
    assert document.public_key == public_key(recipient)
    assert (document.user_data, document.nonce) == (None, None)
    assert recipient.private_key.key_size == 2048


async def test_used_again_within_its_time(nsm: Nsm, time: Time, switch: Switch) -> None:
    """One request to the module serves many calls, and many callers at once."""
    recipients = source(nsm, time)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(recipients.current()) for _ in range(5)]
    time.now += 59.9
    assert len({id(task.result()) for task in tasks} | {id(await recipients.current())}) == 1
    assert switch.requests == 1


async def test_a_new_document_for_the_same_key(nsm: Nsm, time: Time) -> None:
    """The key is older than a document may be, and younger than itself may be."""
    recipients = source(nsm, time)
    first = await recipients.current()
    time.now += 60
    second = await recipients.current()
    assert second.document != first.document
    assert public_key(second) == public_key(first)


async def test_a_new_key_when_its_time_is_over(nsm: Nsm, time: Time) -> None:
    """And a document for it."""
    recipients = source(nsm, time)
    first = await recipients.current()
    time.now += 600
    second = await recipients.current()
    assert public_key(second) != public_key(first)


async def test_a_broken_module_is_told_to_the_caller(nsm: Nsm, time: Time, switch: Switch) -> None:
    """And forgotten once it works."""
    recipients = source(nsm, time)
    switch.is_broken = True
    with pytest.raises(NsmError):
        await recipients.current()
    switch.is_broken = False
    assert (await recipients.current()).document


async def test_rotation_in_the_background(nsm: Nsm, time: Time, switch: Switch) -> None:
    """Documents and keys are renewed at half their time; a failure is logged and left for the next call to meet."""
    recipients = source(nsm, time, document_ttl_s=60.0, key_ttl_s=60.0)
    first = await recipients.current()
    recipients._settings = AttestationSettings.model_construct(document_ttl_s=0.002, recipient_key_ttl_s=0.002)
    with structlog.testing.capture_logs() as log:
        async with asyncio.TaskGroup() as group:
            rotation = group.create_task(recipients.rotate())
            switch.is_broken = True
            time.now += 1
            while not log:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)
            switch.is_broken = False
            while recipients._current is None or recipients._current.recipient is first:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.001)
            rotation.cancel()
    assert captured(log)[0] == "recipient_rotation_failed"
    assert public_key(recipients._current.recipient) != public_key(first)


async def test_half_the_time_renews_in_the_background_only(nsm: Nsm, time: Time) -> None:
    """A caller takes what is there up to the full time."""
    recipients = source(nsm, time)
    first = await recipients.current()
    time.now += 31
    assert await recipients.current() is first
    assert (await recipients._within(0.5)).recipient is not first
