"""Birth certificates: what a stand-in enclave's NSM signs verifies to its own root, and nothing else passes for it."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enclave.nsm_codec import attestation
from local.measurements import DEBUG_MEASUREMENTS, Measurements, measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.attestation import AWS_NITRO_ROOT_G1, FailedCheck, TrustRoot
from protocol.birth import BirthCertificate, BirthCertificateError, birth_user_data
from protocol.birth_verification import BirthCheck, BirthRefusedError, VerifiedBirth, verify_birth
from protocol.cbor import encode, encode_canonical
from protocol.live import live_user_data
from protocol.statement import KeyStatement, KmsKey

NOW_S = 1_790_000_000.25
MEASUREMENTS = measure(b"config", b"code")
STATEMENT = KeyStatement(
    userid="u001",
    public_key=bytes(range(64)),
    kms_key=KmsKey(partition="aws", account="111122223333", key_id="1234abcd-12ab-34cd-56ef-1234567890ab"),
)
SEALED_SHA256 = hashlib.sha256(b"sealed record").digest()


@functools.cache
def authority() -> NitroAuthority:
    """Return the root of all documents of this module."""
    return NitroAuthority.create(now_s=NOW_S)


@functools.cache
def nsm(measurements: Measurements = MEASUREMENTS) -> StandInNsm:
    """Return the module of one enclave."""
    return StandInNsm(authority(), measurements, clock=lambda: NOW_S)


def document(
    user_data: bytes | None,
    *,
    nonce: bytes | None = None,
    public_key: bytes | None = None,
    measurements: Measurements = MEASUREMENTS,
) -> bytes:
    """Return what the NSM signs."""
    exchange = attestation(user_data=user_data, nonce=nonce, public_key=public_key)
    return exchange.read(nsm(measurements)(exchange.request))


def certificate(statement: bytes | None = None, **asked: Any) -> BirthCertificate:
    """Return a certificate as the generator makes one, but for what else the NSM was asked."""
    certified = STATEMENT.to_bytes() if statement is None else statement
    made = document(birth_user_data(certified, SEALED_SHA256), **asked)
    return BirthCertificate(statement=certified, sealed_sha256=SEALED_SHA256, document=made)


@functools.cache
def good() -> BirthCertificate:
    """Return one good certificate."""
    return certificate()


def verify(
    shown: BirthCertificate,
    *,
    root: TrustRoot | None = None,
    pcr0: tuple[bytes, ...] = (MEASUREMENTS.pcr0,),
    userid: str | None = None,
    public_key: bytes | None = None,
) -> VerifiedBirth:
    """Verify against the root of this module, unless told otherwise."""
    return verify_birth(shown, root=root or authority().trust_root, pcr0=pcr0, userid=userid, public_key=public_key)


def failed_check(shown: BirthCertificate, **expected: Any) -> FailedCheck | BirthCheck:
    """Return the check that a certificate fails."""
    with pytest.raises(BirthRefusedError) as caught:
        verify(shown, **expected)
    assert str(caught.value) == f"{caught.value.check}: {caught.value.text}"
    return caught.value.check


def test_a_birth_verifies_to_the_root_of_its_hardware() -> None:
    """What comes out is what the enclave stated and what the hardware said of it."""
    born = verify(good(), userid="u001", public_key=STATEMENT.public_key)
    assert born.statement == STATEMENT
    assert born.sealed_sha256 == SEALED_SHA256
    assert born.document.pcrs[0] == MEASUREMENTS.pcr0
    assert born.module_id.startswith("i-0123456789abcdef0-enc")
    assert born.time == datetime.fromtimestamp(NOW_S, tz=UTC)


def test_a_stand_ins_birth_is_refused_under_the_aws_root() -> None:
    """Design 2.13: a production verifier never accepts a stand-in's document."""
    assert failed_check(good(), root=AWS_NITRO_ROOT_G1) == FailedCheck.ROOT


def test_one_of_several_images_is_enough_and_another_image_is_refused() -> None:
    """During an upgrade two PCR0 values are allowed; an image that is not among them is refused."""
    verify(good(), pcr0=(b"\x01" * 48, MEASUREMENTS.pcr0))
    assert failed_check(good(), pcr0=(b"\x01" * 48,)) == FailedCheck.PCR


def test_no_allowed_image_is_a_misuse() -> None:
    """A caller that allows no image is told so, instead of a refusal that looks like the certificate's fault."""
    with pytest.raises(ValueError, match="PCR0"):
        verify(good(), pcr0=())


def test_a_debug_enclave_cannot_certify() -> None:
    """Its memory can be read, even when a caller names its zero PCR0 as allowed."""
    born_in_debug = certificate(measurements=DEBUG_MEASUREMENTS)
    assert failed_check(born_in_debug, pcr0=(bytes(48),)) == FailedCheck.DEBUG


@pytest.mark.parametrize("field", ["statement", "sealed_sha256", "document"])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_an_edited_byte_anywhere_is_refused(field: str, place: float) -> None:
    """First, middle and last byte of each part: none can change unnoticed."""
    data = bytearray(getattr(good(), field))
    data[round(place * (len(data) - 1))] ^= 1
    edited = good().model_copy(update={field: bytes(data)})
    in_the_document = {FailedCheck.STRUCTURE, FailedCheck.ROOT, FailedCheck.CHAIN, FailedCheck.SIGNATURE}
    assert failed_check(edited) in (in_the_document if field == "document" else {FailedCheck.USER_DATA})


@pytest.mark.parametrize(
    "changes",
    [
        {"userid": "u002"},
        {"public_key": bytes(64)},
        {"kms_key": STATEMENT.kms_key.model_copy(update={"key_id": "another"})},
        {"kms_key": STATEMENT.kms_key.model_copy(update={"account": "999999999999"})},
        {"kms_key": STATEMENT.kms_key.model_copy(update={"partition": "aws-cn"})},
    ],
)
def test_another_statement_beside_the_same_document_is_refused(changes: dict[str, Any]) -> None:
    """Every field of the statement is bound by the document."""
    edited = good().model_copy(update={"statement": STATEMENT.model_copy(update=changes).to_bytes()})
    assert failed_check(edited) == FailedCheck.USER_DATA


def test_a_byte_moved_from_the_statement_to_the_hash_is_refused() -> None:
    """The hash has a fixed length, so the bound bytes cannot be cut apart in another place."""
    joined = good().statement + good().sealed_sha256
    with pytest.raises(ValueError, match="sealed_sha256"):
        BirthCertificate(statement=joined[:-31], sealed_sha256=joined[-31:], document=good().document)


def test_documents_of_the_other_kinds_are_no_birth() -> None:
    """A live attestation has another tag and a nonce; what KMS is shown has a public key and no user data."""
    statement = STATEMENT.to_bytes()

    def presented(made: bytes) -> BirthCertificate:
        return BirthCertificate(statement=statement, sealed_sha256=SEALED_SHA256, document=made)

    live = document(live_user_data(statement + SEALED_SHA256), nonce=b"n" * 32)
    live_without_nonce = document(live_user_data(statement + SEALED_SHA256))
    for_kms = document(None, public_key=b"recipient key")
    nothing_bound = document(None)
    assert failed_check(presented(live)) == FailedCheck.NONCE
    assert failed_check(presented(live_without_nonce)) == FailedCheck.USER_DATA
    assert failed_check(presented(for_kms)) == FailedCheck.PUBLIC_KEY
    assert failed_check(presented(nothing_bound)) == FailedCheck.USER_DATA


@pytest.mark.parametrize("value", [b"", b"n" * 16])
def test_nonce_and_public_key_must_be_absent(value: bytes) -> None:
    """The right hash does not help a document that also says something else, not even the empty string."""
    assert failed_check(certificate(nonce=value)) == FailedCheck.NONCE
    assert failed_check(certificate(public_key=value)) == FailedCheck.PUBLIC_KEY


def test_another_user_or_another_key_is_refused() -> None:
    """A good certificate of something else than the caller asked for is no answer."""
    assert failed_check(good(), userid="u002") == BirthCheck.USERID
    assert failed_check(good(), public_key=bytes(64)) == BirthCheck.KEY


@pytest.mark.parametrize(
    "statement",
    [
        encode(dict(reversed(STATEMENT.model_dump().items()))),
        STATEMENT.to_bytes() + b"\x00",
        encode_canonical(STATEMENT.model_dump() | {"type": "nitro-signer/key/2"}),
        encode_canonical(STATEMENT.model_dump() | {"extra": 1}),
        encode_canonical(STATEMENT.model_dump() | {"userid": "not allowed"}),
        b"",
    ],
    ids=["order", "trailing", "type", "unknown-field", "userid", "empty"],
)
def test_a_certified_statement_must_be_canonical(statement: bytes) -> None:
    """Even bytes that an enclave has signed are refused when they are not a key statement in its one form."""
    assert failed_check(certificate(statement)) == BirthCheck.STATEMENT


def test_the_text_form_survives() -> None:
    """Base64 of canonical CBOR and back gives a certificate that still verifies."""
    verify(BirthCertificate.from_base64(good().to_base64()))


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b"", b"\x84\x44\xa1\x01\x38\x22\xa0\x40\x40")
def test_hostile_parts_are_refused_and_nothing_else_comes_out(statement: bytes, made: bytes) -> None:
    """No bytes pass, and no bytes raise anything but the declared error."""
    hostile = BirthCertificate(statement=statement, sealed_sha256=SEALED_SHA256, document=made)
    assert failed_check(hostile) == FailedCheck.STRUCTURE


@given(st.data())
def test_hostile_edits_of_a_good_certificate_are_refused(data: st.DataObject) -> None:
    """Whatever is overwritten, cut or inserted in the text's bytes: a declared error, or the certificate as it was."""
    whole = bytearray(base64.b64decode(good().to_base64()))
    start = data.draw(st.integers(0, len(whole)))
    whole[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(BirthCertificateError, BirthRefusedError):
        shown = BirthCertificate.from_base64(base64.b64encode(whole).decode())
        assert verify(shown).statement == STATEMENT


@given(st.text(max_size=100))
@example("é")
@example("AAAA")
def test_hostile_text_is_no_certificate(text: str) -> None:
    """Only the declared error comes out of reading a text."""
    with pytest.raises(BirthCertificateError):
        BirthCertificate.from_base64(text)
