"""Live attestation: an answer verifies with the caller's nonce, near the caller's time, and as this kind only."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.nsm_codec import attestation
from local.measurements import DEBUG_MEASUREMENTS, Measurements, measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.attestation import ANYTHING, AWS_NITRO_ROOT_G1, AttestationError, FailedCheck
from protocol.birth import birth_user_data
from protocol.cbor import encode, encode_canonical
from protocol.live import LiveFacts, LiveFactsError, live_user_data
from protocol.live_verification import VerifiedLive, verify_live
from protocol.messages import AttestResult, Role

NOW_S = 1_790_000_000.25
NONCE = b"n" * 32
MEASUREMENTS = measure(b"config", b"code")
FACTS = LiveFacts(
    role=Role.SIGNER,
    software="nitro-signer/1",
    config_sha256=bytes(32),
    kms_key_arn="arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    instance=b"i" * 16,
)


@functools.cache
def authority() -> NitroAuthority:
    """Return the root of all documents of this module."""
    return NitroAuthority.create(now_s=NOW_S)


@functools.cache
def nsm(measurements: Measurements) -> StandInNsm:
    """Return the module of one enclave. Its certificates are older than its documents, as they mostly are."""
    times = iter([NOW_S - 1000.0])
    module = StandInNsm(authority(), measurements, clock=lambda: next(times, NOW_S))
    module(attestation(user_data=None, nonce=None, public_key=None).request)
    return module


def answer(facts: bytes | None = None, **asked: Any) -> AttestResult:
    """Return what an enclave answers, but for what else its NSM was asked."""
    attested = FACTS.to_bytes() if facts is None else facts
    measurements = asked.pop("measurements", MEASUREMENTS)
    arguments = {"user_data": live_user_data(attested), "nonce": NONCE, "public_key": None} | asked
    exchange = attestation(**arguments)
    return AttestResult(document=exchange.read(nsm(measurements)(exchange.request)), facts=attested)


def verify(result: AttestResult, **changes: Any) -> VerifiedLive:
    """Verify with what a caller who knows the enclave expects, but for the changes."""
    expected: dict[str, Any] = {
        "root": authority().trust_root,
        "pcr0": [MEASUREMENTS.pcr0],
        "nonce": NONCE,
        "now_s": NOW_S,
        "max_age_s": 60.0,
    }
    return verify_live(result, **(expected | changes))


def failed_check(result: AttestResult, **changes: Any) -> FailedCheck:
    """Return the check that an answer fails."""
    with pytest.raises(AttestationError) as caught:
        verify(result, **changes)
    return caught.value.check


def test_an_answer_gives_the_facts_that_the_hardware_binds() -> None:
    """Facts and measurements come out as they went in."""
    live = verify(answer())
    assert live.facts == FACTS
    assert live.document.pcrs[0] == MEASUREMENTS.pcr0


def test_an_unknown_image_can_be_asked_who_it_is() -> None:
    """Without an expected PCR0 everything else still holds."""
    assert verify(answer(), pcr0=ANYTHING).document.pcrs[0] == MEASUREMENTS.pcr0
    assert failed_check(answer(), pcr0=ANYTHING, nonce=b"m" * 32) == FailedCheck.NONCE


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"root": AWS_NITRO_ROOT_G1}, FailedCheck.ROOT),
        ({"pcr0": [bytes(48)]}, FailedCheck.PCR),
        ({"nonce": b"m" * 32}, FailedCheck.NONCE),
        ({"now_s": NOW_S + 61}, FailedCheck.TIME),
        ({"now_s": NOW_S - 61}, FailedCheck.TIME),
    ],
)
def test_what_the_caller_expects_is_demanded(changes: dict[str, Any], check: FailedCheck) -> None:
    """Another root, image, nonce, or a time too far away on either side is refused."""
    assert failed_check(answer(), **changes) == check


def test_a_debug_enclave_is_refused() -> None:
    """Its facts can be anybody's."""
    assert failed_check(answer(measurements=DEBUG_MEASUREMENTS), pcr0=ANYTHING) == FailedCheck.DEBUG


def test_documents_of_the_other_kinds_are_no_live_attestation() -> None:
    """A birth has another tag, what KMS is shown has a public key, and other facts have another hash."""
    assert failed_check(answer(user_data=birth_user_data(FACTS.to_bytes(), b""))) == FailedCheck.USER_DATA
    assert failed_check(answer(public_key=b"recipient key")) == FailedCheck.PUBLIC_KEY
    assert failed_check(answer(user_data=None)) == FailedCheck.USER_DATA
    other = FACTS.model_copy(update={"role": Role.GENERATOR}).to_bytes()
    assert failed_check(answer().model_copy(update={"facts": other})) == FailedCheck.USER_DATA


@pytest.mark.parametrize(
    "facts",
    [
        encode(dict(reversed(FACTS.model_dump().items()))),
        encode_canonical(FACTS.model_dump() | {"extra": 1}),
        encode_canonical(FACTS.model_dump() | {"type": "nitro-signer/birth/1"}),
        b"",
    ],
    ids=["order", "unknown-field", "type", "empty"],
)
def test_attested_bytes_must_be_facts(facts: bytes) -> None:
    """Bytes that the hardware binds but that are no facts in their one form are refused."""
    with pytest.raises(LiveFactsError):
        verify(answer(facts))


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_hostile_answers_are_refused_and_nothing_else_comes_out(document: bytes, facts: bytes) -> None:
    """No bytes pass, and no bytes raise anything but the declared errors."""
    assert failed_check(AttestResult(document=document, facts=facts)) == FailedCheck.STRUCTURE
