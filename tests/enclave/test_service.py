"""A server process of an enclave as its parent sees it: hello, status, attestation, readiness, the moods of KMS."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import structlog
from botocore.exceptions import ClientError

from config.enclave import MeasuredConfig
from enclave import kms as kms_module
from enclave import process
from enclave.attested_clock import AttestedClock
from enclave.process import ProcessParts, run_process
from enclave.recipient import RecipientSource
from local.kms import KmsFaults
from local.measurements import DEBUG_MEASUREMENTS
from local.nitro_authority import NitroAuthority
from local.nsm import NsmFaults, StandInNsm
from protocol.address import UnixAddress
from protocol.attestation import parse_document
from protocol.birth import birth_user_data
from protocol.channel import open_channel
from protocol.clock import system_clock
from protocol.errors import ErrorCode, SignerError
from protocol.keyrecord import sealed_record_sha256
from protocol.live import LiveFacts, live_user_data
from protocol.messages import (
    Attest,
    AttestResult,
    BadItem,
    Events,
    Generate,
    GenerateItem,
    GenerateResult,
    NotReadyReason,
    Role,
    Sign,
    SignResult,
    Status,
    StatusResult,
)
from tests.enclave.parts import MEASUREMENTS
from tests.enclave.stand import TIMEOUT_S, Stand, greeted, sign_item, standing, without_hardening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from enclave.readiness import Readiness
    from enclave.recipient import Recipient
    from local.measurements import Measurements
    from protocol.channel import Channel


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process as it is, and try KMS again at once."""
    without_hardening(monkeypatch)
    monkeypatch.setattr(kms_module, "wait_random_exponential", lambda **_: lambda _: 0)


async def status_of(channel: Channel) -> StatusResult:
    """Ask one."""
    result = await channel.call(Status(), timeout_s=TIMEOUT_S)
    assert isinstance(result, StatusResult)
    return result


async def test_facts_counters_and_documents(tmp_path: Path) -> None:
    """What hello, status, a birth and a live attestation tell agrees with what has happened."""
    async with standing(tmp_path) as stand:
        hello = stand.signer.hello
        assert (hello.enclave.role, hello.enclave.kms_key_arn) == ("signer", stand.key_arn)
        assert hello.enclave.pcr0 == stand.measurements[Role.SIGNER].pcr0
        key = await stand.new_key("u1")
        birth = parse_document(key.birth_document)
        sealed = sealed_record_sha256(key.record)
        assert birth.user_data == birth_user_data(key.record.statement, sealed)
        assert (birth.public_key, birth.nonce) == (None, None)
        await stand.sign("u1", key.record)
        await stand.sign("u1", key.record)
        status = await status_of(stand.signer)
        assert (status.ready, status.reason, status.in_flight) == (True, None, 0)
        assert status.counters["signatures"] == 2
        assert (status.counters["cache_hits"], status.counters["cache_misses"]) == (1, 1)
        assert status.counters["kms_calls"] == 1
        assert (await status_of(stand.generator)).counters["keys_generated"] == 1
        live = await stand.signer.call(Attest(nonce=b"n" * 32), timeout_s=TIMEOUT_S)
        assert isinstance(live, AttestResult)
        document = parse_document(live.document)
        assert (document.nonce, document.public_key) == (b"n" * 32, None)
        assert document.user_data == live_user_data(live.facts)
        assert LiveFacts.from_bytes(live.facts).instance == hello.enclave.instance


async def test_a_cache_that_is_off(tmp_path: Path) -> None:
    """Each signature asks KMS."""
    async with standing(tmp_path, settings="[key_cache]\nmax_entries = 0\n") as stand:
        record = (await stand.new_key("u1")).record
        for _ in range(3):
            await stand.sign("u1", record)
        assert (await status_of(stand.signer)).counters["kms_calls"] == 3


async def test_opened_keys_leave_memory_unasked(tmp_path: Path) -> None:
    """The process sweeps its cache by itself."""
    async with standing(tmp_path, settings="[key_cache]\nttl_s = 0.05\n") as stand:
        await stand.sign("u1", (await stand.new_key("u1")).record)
        async with asyncio.timeout(TIMEOUT_S):
            while (await status_of(stand.signer)).counters["cache_entries"]:  # noqa: ASYNC110 - asked over the wire
                await asyncio.sleep(0.01)


async def test_each_process_does_its_background_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents and keys are renewed, and the clock is compared, before anybody has to wait for it."""
    begun: list[str] = []

    async def rotate(_: RecipientSource) -> None:
        begun.append("rotate")

    async def watch(_: AttestedClock, readiness: Readiness) -> None:
        assert readiness.start_failure is None
        begun.append("watch")

    monkeypatch.setattr(RecipientSource, "rotate", rotate)
    monkeypatch.setattr(AttestedClock, "watch", watch)
    async with standing(tmp_path):
        assert sorted(begun) == ["rotate", "rotate", "watch", "watch"]


async def test_the_environment_does_not_divert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program refuses to start with such variables; should one appear later, the KMS client does not read it."""
    for name in ("HTTPS_PROXY", "https_proxy", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none"))
    async with standing(tmp_path) as stand:
        assert await code_of_key(stand) is None


async def test_a_batch_larger_than_the_limit(tmp_path: Path) -> None:
    """The limit of hello is kept by the enclave; long batches let others have their turn."""
    async with standing(tmp_path, settings="[limits]\nmax_batch_items = 40\n") as stand:
        assert stand.signer.hello.limits.max_batch_items == 40
        record = (await stand.new_key("u1")).record
        await stand.sign("u1", record)
        items = tuple(sign_item("u1", record, bytes([number])) for number in range(41))
        results = await stand.sign_items(*items[:40])
        assert len({result.signature for result in results}) == 40
        with pytest.raises(SignerError, match="bad_request"):
            await stand.sign_items(*items)


async def test_malformed_items_of_both_roles(tmp_path: Path) -> None:
    """They have their error, and their neighbours a result."""
    async with standing(tmp_path) as stand:
        bad = BadItem(detail="made so on the way")
        made = await stand.generator.call(Generate(items=(bad, GenerateItem(userid="u1"))), timeout_s=TIMEOUT_S)
        assert isinstance(made, GenerateResult)
        assert made.results[0].error is not None
        assert made.results[0].error.code == "bad_request"
        assert made.results[1].key is not None
        items = (bad, sign_item("u1", made.results[1].key.record))
        signed = await stand.signer.call(Sign(items=items), timeout_s=TIMEOUT_S)
        assert isinstance(signed, SignResult)
        assert [result.signature is None for result in signed.results] == [True, False]


async def test_without_credentials(tmp_path: Path) -> None:
    """Not ready, and said so; attesting needs none."""
    async with standing(tmp_path, is_pushed=False) as stand:
        assert stand.signer.hello.reason is NotReadyReason.NO_CREDENTIALS
        with pytest.raises(SignerError, match="not_ready"):
            await stand.new_key("u1")
        live = await stand.signer.call(Attest(nonce=bytes(16)), timeout_s=TIMEOUT_S)
        assert isinstance(live, AttestResult)


async def code_of_key(stand: Stand) -> str | None:
    """Have a key generated and return the error."""
    result = await stand.generator.call(Generate(items=(GenerateItem(userid="u"),)), timeout_s=TIMEOUT_S)
    assert isinstance(result, GenerateResult)
    error = result.results[0].error
    return error.code if error else None


@pytest.mark.parametrize(
    ("faults", "code", "calls"),
    [
        (KmsFaults(throttle_rate=1.0), "kms_throttled", 4),
        (KmsFaults(drop_rate=1.0), "kms_unavailable", 4),
        (KmsFaults(refuse_rate=1.0, refuse_code="KMSInternalException"), "kms_unavailable", 4),
        (KmsFaults(refuse_rate=1.0, refuse_code="AccessDeniedException"), "kms_denied", 1),
        (KmsFaults(refuse_rate=1.0, refuse_code="IncorrectKeyException"), "kms_wrong_key", 1),
    ],
)
async def test_what_kms_refuses(tmp_path: Path, faults: KmsFaults, code: str, calls: int) -> None:
    """Each of its errors has a code; only those that may pass by themselves are tried again, four times in all."""
    async with standing(tmp_path, faults=faults) as stand:
        assert await code_of_key(stand) == code
        assert (await status_of(stand.generator)).counters["kms_calls"] == calls


async def test_a_kms_that_throttles_now_and_then(tmp_path: Path) -> None:
    """Tried again until it works, and counted."""
    async with standing(tmp_path, faults=KmsFaults(throttle_rate=0.4, seed=3)) as stand:
        assert await code_of_key(stand) is None
        assert (await status_of(stand.generator)).counters["kms_throttles"] > 0


async def test_a_deadline_for_the_whole_request(tmp_path: Path) -> None:
    """A slow KMS cannot hold a request longer than the measured limit."""
    settings = "[limits]\nrequest_timeout_s = 0.05\n"
    async with standing(tmp_path, settings=settings, faults=KmsFaults(delay_s=30)) as stand:
        assert await code_of_key(stand) == "deadline_exceeded"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"KeyId": "arn:aws:kms:us-east-1:000000000000:key/another"}, "kms_wrong_key"),
        ({"CiphertextForRecipient": None}, "kms_bad_answer"),
        ({"CiphertextForRecipient": b"no envelope"}, "kms_bad_answer"),
        ({"CiphertextForRecipient": "short"}, "kms_bad_answer"),
    ],
)
async def test_an_answer_that_is_not_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], code: str
) -> None:
    """A wrong key id, an answer in plain text, no envelope, another length: nothing is opened or signed."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from local.kms.envelope import EnvelopeRecipient

    async with standing(tmp_path) as stand:
        record = (await stand.new_key("u1")).record
        original = kms_module._open

        def tampered(answer: dict[str, object], recipient: Recipient) -> bytearray:
            public_key = recipient.private_key.public_key()
            spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            answer.update(change)
            if change.get("CiphertextForRecipient") == "short":
                answer["CiphertextForRecipient"] = EnvelopeRecipient.from_spki(spki).seal(bytes(16))
            elif "CiphertextForRecipient" in change and change["CiphertextForRecipient"] is None:
                del answer["CiphertextForRecipient"]
            return original(answer, recipient)

        monkeypatch.setattr(kms_module, "_open", tampered)
        assert await stand.refusal("u1", record) == code


async def test_an_error_of_kms_without_a_code() -> None:
    """What is not on the list means that KMS is unavailable to us."""
    error = ClientError({}, "Decrypt")
    assert kms_module._CODES.get(str(error.response.get("Error", {}).get("Code"))) is None


async def test_a_module_that_fails_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generating and attesting say `nsm_failed`; so does a KMS call without a document."""
    async with standing(tmp_path, is_pushed=True) as stand:
        record = (await stand.new_key("u1")).record

        def refuse(self: StandInNsm, request: bytes) -> bytes:
            from enclave.nsm_codec import NsmError, NsmErrorCode

            del self, request
            raise NsmError(NsmErrorCode.INTERNAL_ERROR, "switched off")

        monkeypatch.setattr(StandInNsm, "__call__", refuse)
        assert await code_of_key(stand) == "nsm_failed"
        with pytest.raises(SignerError) as refused:
            await stand.signer.call(Attest(nonce=bytes(16)), timeout_s=TIMEOUT_S)
        assert refused.value.code is ErrorCode.NSM_FAILED
        assert await stand.refusal("u1", record) == "nsm_failed"


# A process that cannot start properly


@contextlib.asynccontextmanager
async def process_with(
    tmp_path: Path,
    *,
    config: MeasuredConfig | None,
    measurements: Measurements = MEASUREMENTS,
    must_lock_memory: bool = False,
    faults: NsmFaults | None = None,
) -> AsyncIterator[UnixAddress]:
    """Run one server process alone."""
    address = UnixAddress(str(tmp_path / "s"))
    authority = NitroAuthority.create(now_s=system_clock())
    parts = ProcessParts(
        measured=config,
        address=address,
        processes=1,
        nsm=StandInNsm(authority, measurements, clock=system_clock, faults=faults),
        clock=system_clock,
        clock_setter=None,
        must_lock_memory=must_lock_memory,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_process(parts))
        try:
            yield address
        finally:
            task.cancel()


def config_with(ca_pem: str) -> MeasuredConfig:
    """Return a configuration whose KMS is never reached."""
    text = f"""
role = "signer"
kms_key_arn = "arn:aws:kms:us-east-1:000000000000:key/1234"
kms_host = "localhost"
kms_proxy = "unix:///nowhere"
listen = "unix:///nowhere"
kms_ca_pem = '''{ca_pem}'''
"""
    return MeasuredConfig.parse(text.encode())


BROKEN_CA = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"


async def test_a_process_without_configuration(tmp_path: Path) -> None:
    """It stays up, says so, and does nothing else."""
    async with process_with(tmp_path, config=None) as address, greeted(address) as channel:
        assert (channel.hello.ready, channel.hello.reason) == (False, NotReadyReason.BAD_CONFIG)
        assert channel.hello.enclave.role is None
        assert (await status_of(channel)).counters == {}
        for request in (Attest(nonce=bytes(16)), Generate(items=(GenerateItem(userid="u"),))):
            with pytest.raises(SignerError, match="not_ready"):
                await channel.call(request, timeout_s=TIMEOUT_S)


async def test_a_process_whose_authorities_cannot_be_read(tmp_path: Path) -> None:
    """A KMS CA bundle that is none is a bad configuration."""
    async with process_with(tmp_path, config=config_with(BROKEN_CA)) as address, greeted(address) as channel:
        assert channel.hello.reason is NotReadyReason.BAD_CONFIG


async def test_debug_mode(tmp_path: Path) -> None:
    """Zero PCRs without the measured consent: not ready for good, and told over the events."""
    events: list[Events] = []
    arrived = asyncio.Event()

    def take(received: Events) -> None:
        events.append(received)
        arrived.set()

    config = config_with(BROKEN_CA)
    async with process_with(tmp_path, config=config, measurements=DEBUG_MEASUREMENTS) as address:
        async with greeted(address) as channel:
            assert channel.hello.reason is NotReadyReason.DEBUG_MODE
        async with open_channel(address, software="t", timeout_s=TIMEOUT_S, on_events=take), asyncio.timeout(TIMEOUT_S):
            await arrived.wait()
    told = [(entry["event"], entry.get("reason")) for received in events for entry in received.events]
    assert ("start_failed", "debug_mode") in told


async def test_memory_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the platform demands it, there is no work without it."""
    monkeypatch.setattr(process, "lock_memory", lambda: False)
    config = config_with(BROKEN_CA)
    async with process_with(tmp_path, config=config, must_lock_memory=True) as address, greeted(address) as channel:
        assert channel.hello.reason is NotReadyReason.SELF_TEST_FAILED


async def test_memory_that_need_not_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop it is only said."""
    monkeypatch.setattr(process, "lock_memory", lambda: False)
    config = config_with(BROKEN_CA)
    async with process_with(tmp_path, config=config) as address, greeted(address) as channel:
        assert channel.hello.reason is NotReadyReason.BAD_CONFIG


def test_a_failure_is_logged_by_its_type() -> None:
    """The text of an error may hold anything; its type does not."""
    with structlog.testing.capture_logs() as log:
        process._report("request_failed", ValueError("a secret"))
    assert log == [{"event": "request_failed", "error_type": "ValueError", "log_level": "error"}]
