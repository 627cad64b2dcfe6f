"""Attestation documents: strict parsing, and every demand that a policy can make. The documents are made here."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from local.nitro_authority import DocumentSigner, NitroAuthority
from local.nitro_document import encode_indefinite_map, sign_payload
from protocol.attestation import (
    ABSENT,
    ANYTHING,
    PRESENT,
    AtClock,
    AtOwnTime,
    AttestationError,
    DocumentPolicy,
    FailedCheck,
    FieldRule,
    parse_document,
)
from protocol.attestation.cose import PROTECTED_HEADER, signed_bytes
from protocol.cbor import encode

if TYPE_CHECKING:
    from collections.abc import Callable

NOW_S = 1_790_000_000.25
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
PCRS = {index: bytes([index + 1]) * 48 for index in range(16)}
REMOVE = object()


@functools.cache
def authority() -> NitroAuthority:
    """Return the root of all documents of this module."""
    return NitroAuthority.create(now_s=NOW_S)


@functools.cache
def signer() -> DocumentSigner:
    """Return one leaf for all documents of this module."""
    return authority().issue_signer(MODULE_ID, now_s=NOW_S)


def fields(**changes: Any) -> dict[str, Any]:
    """Return the payload of a good document with some fields changed, added or removed."""
    good: dict[str, Any] = {
        "module_id": MODULE_ID,
        "digest": "SHA384",
        "timestamp": int(NOW_S * 1000),
        "pcrs": PCRS,
        "certificate": signer().certificate,
        "cabundle": list(signer().cabundle),
        "public_key": b"key",
        "user_data": None,
        "nonce": b"nonce",
    }
    return {name: value for name, value in (good | changes).items() if value is not REMOVE}


def document(**changes: Any) -> bytes:
    """Return a document that is signed and good but for the changes."""
    return sign_payload(signer().key, encode_indefinite_map(fields(**changes)))


def policy(
    *,
    pcrs: Any = ANYTHING,
    nonce: FieldRule = ANYTHING,
    public_key: FieldRule = ANYTHING,
    user_data: FieldRule = ANYTHING,
    allow_debug: bool = False,
) -> DocumentPolicy:
    """Return a policy that demands nothing but what the test names."""
    return DocumentPolicy(pcrs=pcrs, nonce=nonce, public_key=public_key, user_data=user_data, allow_debug=allow_debug)


def failed_check(data: bytes, demands: DocumentPolicy | None = None, at: AtClock | None = None) -> FailedCheck:
    """Return the check that a document fails."""
    with pytest.raises(AttestationError) as caught:
        parse_document(data).verify(authority().trust_root, demands or policy(), at or AtOwnTime())
    assert str(caught.value).startswith(f"{caught.value.check}: ")
    return caught.value.check


def accept(data: bytes, demands: DocumentPolicy | None = None, at: AtClock | None = None) -> None:
    """Verify a document that must pass."""
    parse_document(data).verify(authority().trust_root, demands or policy(), at or AtOwnTime())


def test_a_good_document_gives_what_was_signed() -> None:
    """Every field of the verified document is the field of the payload."""
    verified = parse_document(document()).verify(authority().trust_root, policy(), AtOwnTime())
    assert verified.module_id == MODULE_ID
    assert verified.timestamp_ms == 1_790_000_000_250
    assert verified.pcrs == PCRS
    assert (verified.public_key, verified.user_data, verified.nonce) == (b"key", None, b"nonce")
    assert verified.is_debug is False
    assert verified.root == authority().trust_root
    assert verified.certificates_not_before.timestamp() == signer().not_before_s
    assert verified.certificates_not_after.timestamp() == signer().not_after_s


def test_the_received_bytes_are_kept() -> None:
    """A parsed document still has the bytes that came."""
    data = document()
    assert parse_document(data).data == data


def test_definite_and_tagged_forms_are_accepted() -> None:
    """Older hardware writes a definite map; the specification allows tag 18; optional fields may be left out."""
    definite = sign_payload(signer().key, encode(fields()))
    accept(definite)
    accept(b"\xd2" + definite)
    accept(document(public_key=REMOVE, user_data=REMOVE, nonce=REMOVE), policy(public_key=ABSENT, nonce=ABSENT))
    accept(document(public_key=b"p" * 1024, user_data=b"u" * 1024, nonce=b""))
    accept(document(pcrs=dict.fromkeys(range(32), b"\x01" * 48)))
    accept(document(pcrs={0: b"\x01" * 32, 1: b"\x01" * 64, 2: b"\x01" * 48}))


@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("module_id", REMOVE, "structure"),
        ("module_id", "", "structure"),
        ("module_id", b"i-0-enc0", "structure"),
        ("module_id", "i-0123456789abcdef0-tpm0000000000000000", "kind"),
        ("nitrotpm_pcrs", PCRS, "kind"),
        ("digest", REMOVE, "structure"),
        ("digest", "SHA256", "structure"),
        ("digest", b"SHA384", "structure"),
        ("timestamp", REMOVE, "structure"),
        ("timestamp", 0, "structure"),
        ("timestamp", -1, "structure"),
        ("timestamp", True, "structure"),
        ("timestamp", 1.5, "structure"),
        ("pcrs", REMOVE, "structure"),
        ("pcrs", {}, "structure"),
        ("pcrs", [], "structure"),
        ("pcrs", PCRS | {32: b"\x01" * 48}, "structure"),
        ("pcrs", PCRS | {-1: b"\x01" * 48}, "structure"),
        ("pcrs", PCRS | {"16": b"\x01" * 48}, "structure"),
        ("pcrs", PCRS | {16.0: b"\x01" * 48}, "structure"),
        ("pcrs", PCRS | {3: b"\x01" * 47}, "structure"),
        ("pcrs", PCRS | {3: "1" * 48}, "structure"),
        ("pcrs", dict.fromkeys(range(33), b"\x01" * 48), "structure"),
        ("pcrs", {1: b"\x01" * 48, 2: b"\x01" * 48}, "structure"),
        ("pcrs", {0: b"\x01" * 48, 1: b"\x01" * 48}, "structure"),
        ("certificate", REMOVE, "structure"),
        ("certificate", b"", "structure"),
        ("certificate", b"c" * 1025, "structure"),
        ("certificate", "text", "structure"),
        ("cabundle", REMOVE, "structure"),
        ("cabundle", [], "structure"),
        ("cabundle", b"", "structure"),
        ("cabundle", [b""], "structure"),
        ("cabundle", ["text"], "structure"),
        ("public_key", "text", "structure"),
        ("public_key", b"p" * 1025, "structure"),
        ("user_data", b"u" * 1025, "structure"),
        ("user_data", [1], "structure"),
        ("nonce", b"n" * 1025, "structure"),
        ("nonce", 7, "structure"),
        ("another", None, "structure"),
    ],
)
def test_a_field_that_breaks_its_rule_is_refused(name: str, value: object, check: str) -> None:
    """Each rule of the payload holds, although the document is signed by a good chain."""
    assert failed_check(document(**{name: value})) == check


def test_a_field_name_that_is_no_text_is_refused() -> None:
    """Payload keys are texts; a number in their place is an unknown field."""
    payload = encode(fields() | {1: 2})
    assert failed_check(sign_payload(signer().key, payload)) == FailedCheck.STRUCTURE


@pytest.mark.parametrize(
    "payload", [b"\x80", b"\xf6", b"\xa1", b"\xbf\x61a\x01\x61a\x01\xff", b"\xa0\x00", b"\xc0\x60"]
)
def test_a_payload_that_is_no_strict_map_is_refused(payload: bytes) -> None:
    """Arrays, null, cut maps, duplicate keys, trailing bytes and tags are no payload."""
    assert failed_check(sign_payload(signer().key, payload)) == FailedCheck.STRUCTURE


def _envelope(parts: Any) -> bytes:
    return encode(parts)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p, _: _envelope([PROTECTED_HEADER, {}, p]), id="three parts"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, {}, p, s, b""]), id="five parts"),
        pytest.param(lambda p, s: _envelope({0: PROTECTED_HEADER, 1: {}, 2: p, 3: s}), id="a map"),
        pytest.param(lambda p, s: _envelope([{1: -35}, {}, p, s]), id="protected as a map"),
        pytest.param(lambda p, s: _envelope([bytes.fromhex("a1013823"), {}, p, s]), id="ES512"),
        pytest.param(lambda p, s: _envelope([bytes.fromhex("a10138220000")[:5], {}, p, s]), id="a byte more"),
        pytest.param(lambda p, s: _envelope([bytes.fromhex("bf013822ff"), {}, p, s]), id="indefinite header"),
        pytest.param(lambda p, s: _envelope([bytes.fromhex("a101390022"), {}, p, s]), id="longer number"),
        pytest.param(lambda p, s: _envelope([b"", {1: -35}, p, s]), id="algorithm unprotected"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, {4: b"k"}, p, s]), id="unprotected not empty"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, None, p, s]), id="unprotected null"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, [], p, s]), id="unprotected an array"),
        pytest.param(lambda _, s: _envelope([PROTECTED_HEADER, {}, None, s]), id="payload detached"),
        pytest.param(lambda _, s: _envelope([PROTECTED_HEADER, {}, b"", s]), id="payload empty"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, {}, p, s[:-1]]), id="signature short"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, {}, p, s + b"\0"]), id="signature long"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, {}, p, s]) + b"\0", id="trailing byte"),
        pytest.param(lambda p, s: b"\xd2\xd2" + _envelope([PROTECTED_HEADER, {}, p, s]), id="two tags"),
        pytest.param(lambda p, s: b"\xd1" + _envelope([PROTECTED_HEADER, {}, p, s]), id="tag 17"),
        pytest.param(lambda p, s: b"\x9f" + _envelope([PROTECTED_HEADER, {}, p, s])[1:] + b"\xff", id="indefinite"),
        pytest.param(lambda _, __: b"\xd2", id="tag alone"),
        pytest.param(lambda _, __: b"", id="nothing"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, {}, p.ljust(16385), s]), id="payload over 16384"),
        pytest.param(lambda p, s: _envelope([PROTECTED_HEADER, {}, p.ljust(17000), s]), id="document too long"),
    ],
)
def test_an_envelope_in_another_form_is_refused(change: Callable[[bytes, bytes], bytes]) -> None:
    """There is one form of the envelope; what varies is refused before anything in it is read."""
    payload = encode(fields())
    signature = sign_payload(signer().key, payload)[-96:]
    accept(_envelope([PROTECTED_HEADER, {}, payload, signature]))
    assert failed_check(change(payload, signature)) == FailedCheck.STRUCTURE


def test_the_largest_payload_is_accepted() -> None:
    """16384 bytes are inside the limit: the document fails by its fields, not by its size."""
    with pytest.raises(AttestationError, match="fields are missing"):
        parse_document(sign_payload(signer().key, encode({"x": bytes(16384 - 6)})))


def test_a_signature_by_another_key_is_refused() -> None:
    """The signature must be the leaf's, over these very payload bytes; zero is no signature."""
    payload = encode(fields())
    assert failed_check(sign_payload(ec.generate_private_key(ec.SECP384R1()), payload)) == FailedCheck.SIGNATURE
    good = sign_payload(signer().key, payload)
    reencoded = good.replace(encode(payload), encode(encode_indefinite_map(fields())))
    assert failed_check(reencoded) == FailedCheck.SIGNATURE
    assert failed_check(good[:-96] + bytes(96)) == FailedCheck.SIGNATURE


def test_the_signed_bytes_are_the_sig_structure_of_the_cose_standard() -> None:
    """RFC 9052 section 4.4, written out by hand."""
    assert signed_bytes(b"\x01\x02") == bytes.fromhex("846a5369676e61747572653144a101382240420102")


def test_another_root_is_refused() -> None:
    """A document that is good under one root is none under another."""
    other = NitroAuthority.create(now_s=NOW_S).trust_root
    with pytest.raises(AttestationError) as caught:
        parse_document(document()).verify(other, policy(), AtOwnTime())
    assert caught.value.check == FailedCheck.ROOT


def test_a_document_outside_its_certificates_validity_is_refused() -> None:
    """At its own time the certificates must be valid, also when the chain has been seen before."""
    accept(document())
    assert failed_check(document(timestamp=int((NOW_S - 60) * 1000))) == FailedCheck.TIME
    assert failed_check(document(timestamp=int((NOW_S + 4 * 3600) * 1000))) == FailedCheck.TIME
    assert failed_check(document(timestamp=2**64 - 1)) == FailedCheck.TIME


@pytest.mark.parametrize(
    ("later_s", "passes"), [(0, True), (60, True), (60.5, False), (-5, True), (-5.5, False), (4 * 3600, False)]
)
def test_age_is_bounded_at_a_clock(later_s: float, passes: bool) -> None:  # noqa: FBT001 - a table
    """Older than `max_age_s`, or further in the future than `max_future_s`, is refused."""
    made_s = NOW_S + 100
    data = document(timestamp=int(made_s * 1000))
    at = AtClock(now_s=made_s + later_s, max_age_s=60, max_future_s=5)
    if passes:
        accept(data, at=at)
    else:
        assert failed_check(data, at=at) == FailedCheck.TIME


def test_a_generous_age_does_not_outlive_the_certificates() -> None:
    """At a clock the certificates must be valid at that clock, whatever age is allowed."""
    at = AtClock(now_s=NOW_S + 4 * 3600, max_age_s=1e9, max_future_s=0)
    assert failed_check(document(), at=at) == FailedCheck.TIME


@pytest.mark.parametrize("zero", [(0, 1, 2), (0,), (1,), (2,)])
def test_debug_mode_is_refused_unless_allowed(zero: tuple[int, ...]) -> None:
    """A zero among PCR0, PCR1 and PCR2 is debug mode, whatever the other PCRs and the policy's values say."""
    pcrs = PCRS | dict.fromkeys(zero, bytes(48))
    data = document(pcrs=pcrs)
    assert failed_check(data) == FailedCheck.DEBUG
    assert failed_check(data, policy(pcrs={0: [bytes(48), PCRS[0]]})) == FailedCheck.DEBUG
    allowed = parse_document(data).verify(authority().trust_root, policy(allow_debug=True), AtOwnTime())
    assert allowed.is_debug is True
    accept(document(pcrs=PCRS | {8: bytes(48)}))


def test_pcrs_must_have_one_of_the_allowed_values() -> None:
    """Every named PCR is compared; one that the document lacks fails."""
    accept(document(), policy(pcrs={0: [PCRS[0]], 4: {b"x", PCRS[4]}}))
    assert failed_check(document(), policy(pcrs={0: [PCRS[1]]})) == FailedCheck.PCR
    assert failed_check(document(), policy(pcrs={0: [PCRS[0]], 3: [PCRS[0]]})) == FailedCheck.PCR
    assert failed_check(document(), policy(pcrs={16: [bytes(48)]})) == FailedCheck.PCR


@pytest.mark.parametrize("name", ["nonce", "public_key", "user_data"])
@pytest.mark.parametrize(
    ("rule", "value", "passes"),
    [
        (ANYTHING, None, True),
        (ANYTHING, b"x", True),
        (ABSENT, None, True),
        (ABSENT, REMOVE, True),
        (ABSENT, b"", False),
        (ABSENT, b"x", False),
        (PRESENT, b"x", True),
        (PRESENT, b"", False),
        (PRESENT, None, False),
        (b"x", b"x", True),
        (b"x", b"xy", False),
        (b"x", None, False),
        (b"", b"", True),
        (b"", None, False),
    ],
)
def test_each_optional_field_obeys_its_rule(name: str, rule: FieldRule, value: object, passes: bool) -> None:  # noqa: FBT001 - a table
    """The three optional fields follow the same four rules, and a failure names the field."""
    data = document(**{name: value})
    demands = policy(**{name: rule})  # type: ignore[arg-type]  # the name is one of the three
    if passes:
        accept(data, demands)
    else:
        assert failed_check(data, demands) == name


def test_a_policy_that_demands_no_pcr_by_accident_cannot_be_made() -> None:
    """An empty map, an empty list of values and an index that does not exist are mistakes, not permissions."""
    mistakes: list[dict[int, list[bytes]]] = [{}, {0: []}, {32: [b"x"]}, {-1: [b"x"]}]
    for mistake in mistakes:
        with pytest.raises(ValueError, match="PCR"):
            policy(pcrs=mistake)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good document with some bytes replaced, removed or put in."""
    data = bytearray(document())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@given(st.one_of(mutations(), st.binary(max_size=200)))
@example(b"\xd2")
@settings(max_examples=400)
def test_only_attestation_errors_come_out_of_hostile_bytes(data: bytes) -> None:
    """Whatever arrives is refused with a check, or is the document itself."""
    try:
        parse_document(data).verify(authority().trust_root, policy(), AtOwnTime())
    except AttestationError:
        return
    assert data == document() or data[-96:] != document()[-96:]


@given(
    st.dictionaries(
        st.sampled_from(sorted(fields())),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats()
            | st.text(max_size=8)
            | st.binary(max_size=60),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.integers(0, 40) | st.text(max_size=3), inner, max_size=4)
            ),
            max_leaves=6,
        ),
        max_size=3,
    )
)
@settings(max_examples=300)
def test_only_attestation_errors_come_out_of_signed_nonsense(changes: dict[str, Any]) -> None:
    """A signer of the right root cannot make the verifier fail in another way, whatever values it signs."""
    try:
        parse_document(document(**changes)).verify(authority().trust_root, policy(), AtOwnTime())
    except AttestationError:
        return


@given(st.integers(0, 640), st.binary(max_size=6))
@settings(max_examples=300)
def test_only_attestation_errors_come_out_of_damaged_certificates(position: int, patch: bytes) -> None:
    """Certificates are foreign bytes too: damage to any of them is refused as CHAIN, ROOT or SIGNATURE."""
    for index in range(5):
        certificates = [*signer().cabundle, signer().certificate]
        damaged = bytearray(certificates[index])
        damaged[position : position + len(patch)] = patch
        if bytes(damaged) == certificates[index] or not damaged:
            continue
        certificates[index] = bytes(damaged[:1024])
        data = document(cabundle=certificates[:4], certificate=certificates[4])
        assert failed_check(data) in {FailedCheck.CHAIN, FailedCheck.ROOT, FailedCheck.SIGNATURE}
