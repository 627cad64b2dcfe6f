"""Verification on the parent: every form that exists, and every way in which an enclave could answer wrongly."""

import contextlib
import hashlib
from collections.abc import Callable

import pytest
from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, SignerError
from protocol.messages import Scheme, SignatureFormat
from workers.verify import check_public_key, verify_signature

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEY = PrivateKey(hashlib.sha256(b"verify").digest())
OTHER = PrivateKey(hashlib.sha256(b"another").digest())
PUBLIC_KEY = KEY.public_key.format(compressed=False)[1:]
DIGEST = hashlib.sha256(b"Hello World").digest()

FORMS = [
    (Scheme.ECDSA, SignatureFormat.COMPACT),
    (Scheme.ECDSA, SignatureFormat.DER),
    (Scheme.ECDSA, SignatureFormat.RECOVERABLE),
    (Scheme.SCHNORR, SignatureFormat.COMPACT),
]


def sign(key: PrivateKey, digest: bytes, scheme: Scheme, form: SignatureFormat) -> bytes:
    """Sign as an honest enclave does."""
    if scheme is Scheme.SCHNORR:
        return key.sign_schnorr(digest)
    if form is SignatureFormat.DER:
        return key.sign(digest, hasher=None)
    recoverable = key.sign_recoverable(digest, hasher=None)
    return recoverable if form is SignatureFormat.RECOVERABLE else recoverable[:64]


def refused(signature: bytes, scheme: Scheme, form: SignatureFormat, public_key: bytes = PUBLIC_KEY) -> bool:
    """Return whether the signature is refused, with the one code for that."""
    try:
        verify_signature(signature, DIGEST, public_key, scheme, form)
    except SignerError as error:
        return error.code is ErrorCode.SIGNATURE_REFUSED
    return False


@pytest.mark.parametrize(("scheme", "form"), FORMS)
def test_an_honest_signature_passes(scheme: Scheme, form: SignatureFormat) -> None:
    """Each form that the enclave makes is accepted in that form, and in no other ECDSA form."""
    signature = sign(KEY, DIGEST, scheme, form)
    assert not refused(signature, scheme, form)
    for other_scheme, other_form in FORMS:
        if (other_scheme, other_form) != (scheme, form):
            assert refused(signature, other_scheme, other_form)


def test_a_signature_of_another_library_passes() -> None:
    """What the cryptography package signs, in low-s form, is accepted."""
    private = ec.derive_private_key(int.from_bytes(KEY.secret, "big"), ec.SECP256K1())
    r, s = decode_dss_signature(private.sign(DIGEST, ec.ECDSA(Prehashed(hashes.SHA256()))))
    low = encode_dss_signature(r, min(s, ORDER - s))
    assert not refused(low, Scheme.ECDSA, SignatureFormat.DER)


@pytest.mark.parametrize(("scheme", "form"), FORMS)
def test_another_key_or_digest_is_refused(scheme: Scheme, form: SignatureFormat) -> None:
    """A signature by another user's key, or over another message, never reaches a reply."""
    assert refused(sign(OTHER, DIGEST, scheme, form), scheme, form)
    assert refused(sign(KEY, hashlib.sha256(b"Hello world").digest(), scheme, form), scheme, form)


@pytest.mark.parametrize(("scheme", "form"), FORMS)
def test_a_stored_key_off_the_curve_is_refused(scheme: Scheme, form: SignatureFormat) -> None:
    """A public key that is no point verifies nothing."""
    assert refused(sign(KEY, DIGEST, scheme, form), scheme, form, public_key=b"\xff" * 64)


def high_s(form: SignatureFormat) -> bytes:
    """Return the other valid signature, which anybody can make from the honest one."""
    recoverable = KEY.sign_recoverable(DIGEST, hasher=None)
    r, s = int.from_bytes(recoverable[:32], "big"), ORDER - int.from_bytes(recoverable[32:64], "big")
    compact = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    match form:
        case SignatureFormat.DER:
            return encode_dss_signature(r, s)
        case SignatureFormat.RECOVERABLE:
            return compact + bytes([recoverable[64] ^ 1])
        case SignatureFormat.COMPACT:
            return compact


@pytest.mark.parametrize("form", list(SignatureFormat))
def test_high_s_is_refused(form: SignatureFormat) -> None:
    """A signature has one form: s above n/2 is refused, though it is a valid ECDSA signature."""
    assert refused(high_s(form), Scheme.ECDSA, form)


def long_length(der: bytes) -> bytes:
    """Return the same DER with the sequence length in two bytes."""
    return der[:1] + b"\x81" + der[1:]


def padded_r(der: bytes) -> bytes:
    """Return the same numbers with one more zero byte before r."""
    length = der[3]
    return bytes([0x30, der[1] + 1, 0x02, length + 1, 0]) + der[4:]


def padded_s(der: bytes) -> bytes:
    """Return the same numbers with one more zero byte before s."""
    place = 4 + der[3]
    return bytes([0x30, der[1] + 1]) + der[2:place] + bytes([0x02, der[place + 1] + 1, 0]) + der[place + 2 :]


def inner_long_length(der: bytes) -> bytes:
    """Return the same numbers with the length of r in two bytes."""
    return bytes([0x30, der[1] + 1, 0x02, 0x81]) + der[3:]


BENDS = [
    long_length, padded_r, padded_s, inner_long_length,
    lambda der: der + b"\0", lambda der: der[:-1], lambda der: b"\x31" + der[1:], lambda _: b"",
]  # fmt: skip


@pytest.mark.parametrize("bend", BENDS)
def test_loose_der_is_refused(bend: Callable[[bytes], bytes]) -> None:
    """Only the one strict encoding passes."""
    assert refused(bend(KEY.sign(DIGEST, hasher=None)), Scheme.ECDSA, SignatureFormat.DER)


@pytest.mark.parametrize("recovery_id", [2, 3, 4, 27, 255])
def test_v_is_zero_or_one(recovery_id: int) -> None:
    """Other recovery ids, Ethereum's 27 among them, are not the form that was asked for."""
    signature = KEY.sign_recoverable(DIGEST, hasher=None)[:64] + bytes([recovery_id])
    assert refused(signature, Scheme.ECDSA, SignatureFormat.RECOVERABLE)


def test_the_wrong_v_is_refused() -> None:
    """The other recovery id yields another key."""
    signature = KEY.sign_recoverable(DIGEST, hasher=None)
    assert refused(signature[:64] + bytes([signature[64] ^ 1]), Scheme.ECDSA, SignatureFormat.RECOVERABLE)


@given(st.sampled_from(FORMS), st.binary(max_size=80))
def test_noise_is_refused(form: tuple[Scheme, SignatureFormat], noise: bytes) -> None:
    """Arbitrary bytes are refused with the code for that, and nothing else happens."""
    assert refused(noise, *form)


@given(st.sampled_from(FORMS), st.integers(0, 63), st.integers(1, 255))
def test_one_changed_byte_is_refused(form: tuple[Scheme, SignatureFormat], place: int, flip: int) -> None:
    """No signature survives a change of one byte."""
    signature = bytearray(sign(KEY, DIGEST, *form))
    signature[place] ^= flip
    assert refused(bytes(signature), *form)


def test_a_public_key_is_a_point() -> None:
    """A new record's public key must lie on the curve."""
    check_public_key(PUBLIC_KEY)
    for bad in (bytes(64), PUBLIC_KEY[:63] + bytes([PUBLIC_KEY[63] ^ 1]), PUBLIC_KEY[:63]):
        with pytest.raises(SignerError) as caught:
            check_public_key(bad)
        assert caught.value.code is ErrorCode.RECORD_REFUSED


@pytest.mark.parametrize("recovery_id", [2, 3])
def test_an_r_above_the_order_is_refused(recovery_id: int) -> None:
    """Such a signature can be made for a key that fits it, and recovers to that key: `v` is 0 or 1 all the same."""
    for r in range(1, 100):
        signature = r.to_bytes(32, "big") + (1).to_bytes(32, "big") + bytes([recovery_id])
        with contextlib.suppress(ValueError):
            key = PublicKey.from_signature_and_message(signature, DIGEST, hasher=None).format(compressed=False)[1:]
            break
    else:
        pytest.fail("no x coordinate between n and p")
    with pytest.raises(SignerError, match="signature_refused"):
        verify_signature(signature, DIGEST, key, Scheme.ECDSA, SignatureFormat.RECOVERABLE)
