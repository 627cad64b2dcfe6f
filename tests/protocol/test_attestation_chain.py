"""Certificate chains of attestation documents: one good chain, and every way in which a chain may be bad."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from protocol.attestation import AttestationError, FailedCheck, TrustRoot
from protocol.attestation.chain import verify_chain
from tests.protocol.chains import (
    CRITICAL,
    END,
    LEAF_USAGE,
    OPTIONAL,
    START,
    authority,
    changed,
    good_plans,
    make,
    root_of,
    usage,
    with_changed_leaf,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P384_OID = bytes.fromhex("06052b81040022")
UNKNOWN_CURVE_OID = bytes.fromhex("06052b8104007f")


def refusal(ders: Sequence[bytes], root: TrustRoot | None = None) -> AttestationError:
    """Return the error of a chain that must not verify."""
    with pytest.raises(AttestationError) as caught:
        verify_chain(root or root_of(ders), ders[-1], tuple(ders[:-1]))
    return caught.value


def test_a_good_chain_gives_the_leafs_key_and_the_common_validity() -> None:
    """The chain of real hardware's form verifies; its validity is what all certificates share."""
    plans = good_plans()
    plans[1] = dataclasses.replace(plans[1], not_after=END - timedelta(minutes=30))
    plans[4] = dataclasses.replace(plans[4], not_before=START + timedelta(minutes=10))
    ders = make(plans)
    chain = verify_chain(root_of(ders), ders[-1], tuple(ders[:-1]))
    leaf_key = plans[4].key.public_key()
    assert leaf_key == chain.signer
    assert START + timedelta(minutes=10) == chain.not_before
    assert END - timedelta(minutes=30) == chain.not_after


def test_a_leaf_right_below_the_root_is_a_chain() -> None:
    """The specification asks for at least one certificate in the bundle, not for four."""
    root, *_, leaf = good_plans()
    ders = make([root, leaf])
    assert verify_chain(root_of(ders), ders[1], (ders[0],)).not_before == START


@pytest.mark.parametrize(("offset_s", "valid"), [(-0.001, False), (0, True), (10800, True), (10800.001, False)])
def test_time_is_judged_to_the_ends_of_the_validity(offset_s: float, valid: bool) -> None:  # noqa: FBT001 - a table
    """Both ends of the validity belong to it; a millisecond outside does not."""
    ders = make(good_plans())
    chain = verify_chain(root_of(ders), ders[-1], tuple(ders[:-1]))
    if valid:
        chain.check_valid_at(START.timestamp() + offset_s)
    else:
        with pytest.raises(AttestationError) as caught:
            chain.check_valid_at(START.timestamp() + offset_s)
        assert caught.value.check == FailedCheck.TIME


def test_another_root_is_refused() -> None:
    """A chain that is good in itself but starts at another root fails as ROOT."""
    assert refusal(make(good_plans()), root_of(make(good_plans()))).check == FailedCheck.ROOT


def test_a_bundle_that_does_not_start_at_the_root_is_refused() -> None:
    """The pinned root must be the first certificate, even if the rest leads to it."""
    ders = make(good_plans())
    assert refusal(ders[1:], root_of(ders)).check == FailedCheck.ROOT
    assert refusal([ders[1], ders[0], *ders[2:]], root_of(ders)).check == FailedCheck.ROOT


def _reorder(ders: list[bytes]) -> list[bytes]:
    root, region, zone, instance, leaf = ders
    return [root, zone, region, instance, leaf]


def _pad_with_a_stranger(ders: list[bytes]) -> list[bytes]:
    root, region, _, _, leaf = ders
    return [root, region, make(good_plans())[1], leaf]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_reorder, id="region and zone swapped"),
        pytest.param(lambda ders: [*ders[:2], *ders[1:]], id="region twice"),
        pytest.param(lambda ders: [ders[0], *ders], id="root twice"),
        pytest.param(lambda ders: [*ders[:4], ders[4], ders[4]], id="leaf in the bundle"),
        pytest.param(lambda ders: [*ders[:2], *ders[3:]], id="zone missing"),
        pytest.param(_pad_with_a_stranger, id="a stranger's CA"),
        pytest.param(lambda ders: [*ders[:4], b""], id="empty leaf"),
        pytest.param(lambda ders: [*ders[:4], b"\x30\x03\x02\x01\x01"], id="leaf is other DER"),
        pytest.param(lambda ders: [*ders[:4], ders[4] + b"\x00"], id="a byte after the leaf"),
        pytest.param(lambda ders: [*ders[:3], ders[3][:-1], ders[4]], id="instance cut"),
        pytest.param(
            lambda ders: [*ders[:4], ders[4].replace(P384_OID, UNKNOWN_CURVE_OID)], id="leaf on an unknown curve"
        ),
    ],
)
def test_a_bundle_in_another_shape_is_refused(change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Nothing may be reordered, doubled, added, left out or damaged."""
    assert refusal(change(make(good_plans()))).check == FailedCheck.CHAIN


def test_padding_inside_the_depth_limit_is_refused() -> None:
    """A short chain with one unused CA in its bundle has the right depth; only the comparison with the path sees it."""
    root, region, *_, leaf = good_plans()
    ders = make([root, region, leaf])
    stranger = make(good_plans())[1]
    error = refusal([ders[0], stranger, ders[1], ders[2]])
    assert (error.check, "nothing else" in error.text) == (FailedCheck.CHAIN, True)


def test_order_inside_the_depth_limit_is_refused() -> None:
    """The library sorts a shuffled bundle by itself; only the comparison with the path sees it."""
    error = refusal(_reorder(make(good_plans())))
    assert (error.check, "in this order" in error.text) == (FailedCheck.CHAIN, True)


def _instance_with(*extensions: tuple[x509.ExtensionType, bool]) -> list[bytes]:
    return changed(3, extensions=extensions)


def _leaf_with(*extensions: tuple[x509.ExtensionType, bool]) -> list[bytes]:
    return changed(4, extensions=extensions)


CA = x509.BasicConstraints(ca=True, path_length=0)
NO_CA = x509.BasicConstraints(ca=False, path_length=None)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
BROKEN_USAGE = x509.UnrecognizedExtension(ExtensionOID.KEY_USAGE, b"\xff\xff")


NO_POLICY = x509.PolicyConstraints(require_explicit_policy=0, inhibit_policy_mapping=0)


def _leaf_outside_a_name_constraint() -> list[bytes]:
    plans = good_plans()
    constraint = x509.NameConstraints([x509.DNSName("a.example")], None)
    name = x509.SubjectAlternativeName([x509.DNSName("b.example")])
    plans[3] = dataclasses.replace(plans[3], extensions=(*plans[3].extensions, (constraint, CRITICAL)))
    plans[4] = dataclasses.replace(plans[4], extensions=(*plans[4].extensions, (name, OPTIONAL)))
    return make(plans)


def _other_keys_behind_the_same_names() -> list[bytes]:
    return [*make(good_plans())[:1], *make(good_plans())[1:]]


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        pytest.param(
            lambda: _instance_with((CA, CRITICAL), (usage("crl_sign"), CRITICAL)), "may not sign", id="no keyCertSign"
        ),
        pytest.param(lambda: _instance_with((CA, CRITICAL)), "key usage", id="CA without key usage"),
        pytest.param(
            lambda: _instance_with((usage("key_cert_sign"), CRITICAL)), "not a CA", id="CA without basic constraints"
        ),
        pytest.param(
            lambda: _instance_with((NO_CA, CRITICAL), (usage("key_cert_sign"), CRITICAL)), "not a CA", id="cA false"
        ),
        pytest.param(
            lambda: _instance_with((CA, OPTIONAL), (usage("key_cert_sign"), CRITICAL)),
            "path validation",
            id="basic constraints not critical",
        ),
        pytest.param(
            lambda: _instance_with((CA, CRITICAL), (usage("key_cert_sign"), OPTIONAL)),
            "path validation",
            id="CA key usage not critical",
        ),
        pytest.param(
            lambda: _instance_with((CA, CRITICAL), (usage("key_cert_sign"), CRITICAL), (UNKNOWN, CRITICAL)),
            "path validation",
            id="unknown critical extension of a CA",
        ),
        pytest.param(
            lambda: changed(0, extensions=((CA, CRITICAL), (usage("crl_sign"), CRITICAL))),
            "may not sign",
            id="root without keyCertSign",
        ),
        pytest.param(
            lambda: _leaf_with((CA, CRITICAL), (usage("digital_signature", "key_cert_sign"), CRITICAL)),
            "leaf certificate is a CA",
            id="a CA as leaf",
        ),
        pytest.param(
            lambda: _leaf_with((NO_CA, CRITICAL), (usage("content_commitment"), OPTIONAL)),
            "digital signatures",
            id="leaf without digitalSignature",
        ),
        pytest.param(lambda: _leaf_with((NO_CA, CRITICAL)), "key usage", id="leaf without key usage"),
        pytest.param(
            lambda: _leaf_with((NO_CA, CRITICAL), (LEAF_USAGE, OPTIONAL), (UNKNOWN, CRITICAL)),
            "path validation",
            id="unknown critical extension of the leaf",
        ),
        pytest.param(lambda: _leaf_with((BROKEN_USAGE, OPTIONAL)), "malformed", id="key usage that cannot be read"),
        pytest.param(
            lambda: changed(4, key=ec.generate_private_key(ec.SECP256R1())), "not on P-384", id="leaf on P-256"
        ),
        pytest.param(lambda: changed(3, key=ec.generate_private_key(ec.SECP521R1())), "not on P-384", id="CA on P-521"),
        pytest.param(
            lambda: changed(0, key=rsa.generate_private_key(65537, 2048)), "ECDSA with SHA-384", id="RSA root"
        ),
        pytest.param(
            lambda: changed(4, key=rsa.generate_private_key(65537, 2048)), "not on P-384", id="leaf with an RSA key"
        ),
        pytest.param(lambda: changed(4, digest=hashes.SHA256()), "ECDSA with SHA-384", id="leaf signed with SHA-256"),
        pytest.param(lambda: changed(2, digest=hashes.SHA512()), "ECDSA with SHA-384", id="CA signed with SHA-512"),
        pytest.param(lambda: changed(0, digest=hashes.SHA256()), "ECDSA with SHA-384", id="root signed with SHA-256"),
        pytest.param(
            lambda: changed(1, extensions=authority("region", 1).extensions), "path validation", id="pathLen too short"
        ),
        pytest.param(_leaf_outside_a_name_constraint, "path validation", id="name outside a CA's constraint"),
        pytest.param(
            lambda: _instance_with((CA, CRITICAL), (usage("key_cert_sign"), CRITICAL), (NO_POLICY, CRITICAL)),
            "path validation",
            id="critical policy constraints, which nobody judges",
        ),
        pytest.param(
            lambda: with_changed_leaf(lambda inner: inner["extensions"].append(inner["extensions"][0].copy())),
            "malformed",
            id="an extension twice",
        ),
        pytest.param(
            lambda: with_changed_leaf(lambda inner: inner["signature"].__setitem__("algorithm", "sha256_ecdsa")),
            "path validation",
            id="two signature algorithms",
        ),
        pytest.param(
            lambda: with_changed_leaf(lambda inner: inner.__setitem__("version", 0)),
            "path validation",
            id="version 1 with extensions",
        ),
        pytest.param(
            lambda: with_changed_leaf(lambda inner: inner.__setitem__("serial_number", 1 << 200)),
            "path validation",
            id="serial number of 26 bytes",
        ),
        pytest.param(lambda: make(good_plans())[:-1], "leaf certificate is a CA", id="the instance as leaf"),
        pytest.param(lambda: [make(good_plans())[0]] * 2, "leaf certificate is a CA", id="the root as leaf"),
        pytest.param(_other_keys_behind_the_same_names, "path validation", id="other keys behind the same names"),
        pytest.param(
            lambda: changed(4, issuer_key=ec.generate_private_key(ec.SECP384R1())),
            "path validation",
            id="leaf signed by a stranger",
        ),
        pytest.param(lambda: changed(4, issuer_name="somebody"), "path validation", id="leaf of another issuer"),
        pytest.param(
            lambda: changed(2, not_before=END + timedelta(seconds=1), not_after=END + timedelta(days=1)),
            "no moment",
            id="validities that never meet",
        ),
    ],
)
def test_a_bad_certificate_is_refused(chain: Callable[[], list[bytes]], says: str) -> None:
    """Each certificate rule is enforced, by the check that is meant to."""
    error = refusal(chain())
    assert error.check == FailedCheck.CHAIN
    assert says in error.text


def test_a_subject_that_cannot_be_read_is_refused() -> None:
    """The library reads names only while it looks for a path, and fails in another way there (found by fuzzing)."""
    ders = make(good_plans())
    # Behind the validity the subject begins: SEQUENCE, SET, SEQUENCE. The certificate still loads without the SET.
    name = x509.load_der_x509_certificate(ders[3]).subject.public_bytes()
    broken = name[:2] + b"\x00" + name[3:]
    ders[3] = ders[3].replace(name, broken)
    error = refusal(ders)
    assert (error.check, "malformed" in error.text) == (FailedCheck.CHAIN, True)


def test_a_flood_of_certificates_is_refused_unread() -> None:
    """With certificates that all fit behind each other the paths to try are many: none is tried."""
    loop = dataclasses.replace(authority("x", None))
    ders = make([good_plans()[0], *[loop] * 30, dataclasses.replace(good_plans()[4], issuer_key=loop.key)])
    assert "31 certificates in the bundle; the limit is 4" in refusal(ders).text


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "x\n" * 32])
def test_what_a_certificate_says_is_shown_printable_and_short(name: str) -> None:
    """The library quotes subjects; a refusal is printed to terminals and written to logs."""
    error = refusal(changed(4, name=name, extensions=(*good_plans()[4].extensions, (UNKNOWN, CRITICAL))))
    assert error.check == FailedCheck.CHAIN
    assert error.text.isprintable()
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", id="unknown version"),
        pytest.param(b"\xa0\x03\x02\x01\x02\x02\x14", b"\xa0\x03\x02\x01\x02\x02\x94", id="length over the end"),
    ],
)
def test_a_certificate_that_cannot_be_read_is_refused(old: bytes, new: bytes) -> None:
    """What the library cannot load is refused, by whatever exception the library says so."""
    ders = make(good_plans())
    ders[-1] = ders[-1].replace(old, new)
    assert refusal(ders).check == FailedCheck.CHAIN


def test_a_negative_serial_number_is_refused_where_warnings_are_errors() -> None:
    """The library only warns of it; under this suite's settings the warning is an exception, and becomes a refusal."""
    ders = make(good_plans())
    serial = ders[-1].index(b"\xa0\x03\x02\x01\x02\x02") + 7
    ders[-1] = ders[-1][:serial] + b"\x80" + ders[-1][serial + 1 :]
    error = refusal(ders)
    assert error.check == FailedCheck.CHAIN
    assert "serial number" in error.text


def test_a_fourth_intermediate_is_refused() -> None:
    """The depth is bounded even where the path lengths would allow more."""
    plans = good_plans()
    unlimited = [dataclasses.replace(authority(name, None)) for name in ("root", "a", "b", "c", "d")]
    error = refusal(make([*unlimited, plans[4]]))
    assert error.check == FailedCheck.CHAIN
    ders = make([*unlimited[:4], plans[4]])
    assert verify_chain(root_of(ders), ders[-1], tuple(ders[:-1])).not_before == START


def test_a_trust_root_is_exactly_one_certificate() -> None:
    """A PEM file with two certificates, or none, pins nothing; a fingerprint has 32 bytes."""
    pem = x509.load_der_x509_certificate(make(good_plans())[0]).public_bytes(Encoding.PEM)
    with pytest.raises(ValueError, match="one certificate, not 2"):
        TrustRoot.from_pem(pem + pem)
    with pytest.raises(ValueError, match="PEM"):
        TrustRoot.from_pem(b"no certificate")
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        TrustRoot(bytes(31))
