"""The client against a whole local stack: real queues, real enclaves' signatures, real birth certificates."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.stack_facts import StackFacts
from protocol.errors import ErrorCode
from protocol.messages import Digest, Scheme, SignatureFormat
from tests.stack.harness import ROOT
from workers.client import (
    AnswerRefusedError,
    BirthTrust,
    JobFailedError,
    SigningClient,
    SignRequest,
    SyncSigningClient,
    load_client_settings,
)

if TYPE_CHECKING:
    from tests.stack.harness import Client
    from workers.client import ClientSettings

pytestmark = pytest.mark.stack

CLIENTS = 4
JOBS_EACH = int(os.environ.get("NITRO_TEST_JOBS_EACH", "250"))


@pytest.fixture
def settings(client: Client, monkeypatch: pytest.MonkeyPatch) -> ClientSettings:
    """The settings that the stack has written for its clients."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", client.facts["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "client")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "client")
    return load_client_settings(Path(client.facts["client_config"]))


def reply_queues(client: Client) -> list[str]:
    """Return the clients' own reply queues that exist now."""
    urls = client.sqs.list_queues(QueueNamePrefix="nitro-signer-reply-").get("QueueUrls", [])
    return [url for url in urls if not url.endswith("-dlq")]


async def many_signatures(settings: ClientSettings, name: str) -> tuple[set[bytes], int]:
    """Sign different messages with the keys of two users; return the signatures and how many foreign replies came.

    A reply of its own that came twice is none: where a call timed out, its job was sent again.
    """
    async with SigningClient(settings) as client:
        keys = [await client.generate(f"{name}-{number}") for number in range(2)]
        wanted = [SignRequest(keys[number % 2].userid, f"{name} {number}") for number in range(JOBS_EACH)]
        made = [result.unwrap() async for result in client.sign_many(wanted)]
        assert [signature.key for signature in made] == [keys[number % 2] for number in range(JOBS_EACH)]
        return {signature.data for signature in made}, client.stats.foreign


@pytest.mark.timeout(600)
async def test_four_clients_at_once_each_get_their_own_answers(client: Client, settings: ClientSettings) -> None:
    """Every signature is over the message of its call (verified in the client), and none is lost or mixed up."""
    before = reply_queues(client)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(many_signatures(settings, f"client{number}")) for number in range(CLIENTS)]
    found = [task.result() for task in tasks]
    assert [len(signatures) for signatures, _ in found] == [JOBS_EACH] * CLIENTS
    assert len(set[bytes]().union(*(signatures for signatures, _ in found))) == CLIENTS * JOBS_EACH
    assert [foreign for _, foreign in found] == [0] * CLIENTS
    assert reply_queues(client) == before


async def test_every_form_of_signature(settings: ClientSettings) -> None:
    """ECDSA in three formats, Schnorr, and all digests, from a real enclave."""
    async with SigningClient(settings) as client:
        key = await client.generate("forms")
        assert await client.generate("forms") == key
        for digest in Digest:
            for signature_format in SignatureFormat:
                made = await client.sign("forms", b"m" * 32, digest=digest, format=signature_format)
                assert made.key == key
        made = await client.sign("forms", b"m" * 32, digest=Digest.NONE, scheme=Scheme.SCHNORR)
        assert len(made.data) == 64


async def test_another_image_is_not_believed(settings: ClientSettings) -> None:
    """A client that trusts another image gets no key from this stack."""
    assert settings.trust is not None
    other = BirthTrust(root=settings.trust.root, generator_pcr0=frozenset({b"\x01" * 48}))
    async with SigningClient(settings.model_copy(update={"trust": other})) as client:
        with pytest.raises(AnswerRefusedError, match="pcr") as caught:
            await client.generate("another-image")
    assert caught.value.code is ErrorCode.BIRTH_REFUSED


async def test_a_job_that_fails_for_good_says_why(settings: ClientSettings) -> None:
    """A user without a key, pinned all the same."""
    async with SigningClient(settings) as client:
        client.pin("nobody-has-a-key", (await client.generate("somebody")).xy)
        with pytest.raises(JobFailedError) as caught:
            await client.sign("nobody-has-a-key", b"m")
    assert caught.value.code is ErrorCode.UNKNOWN_USER


def test_a_script_without_an_event_loop(settings: ClientSettings) -> None:
    """The synchronous client, on real queues."""
    with SyncSigningClient(settings) as client:
        key = client.generate("script")
        assert client.sign("script", "Hello World").key == key


def test_the_example_runs_as_it_stands(client: Client) -> None:
    """What the page promises is what it prints."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **StackFacts(**client.facts).to_environ()}
    done = subprocess.run(
        [sys.executable, "examples/sign_payments.py", client.facts["client_config"]],
        env=environ, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "customer-1", "customer-2", "personal_sign", "20 of 20 payments signed", "unknown_user, retryable",
    ]  # fmt: skip
