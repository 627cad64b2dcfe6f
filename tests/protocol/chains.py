"""Makes certificate chains of any kind, good ones in the form of Nitro's, for the tests and seeds of their verifier."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocol.attestation import TrustRoot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(hours=3)
CRITICAL, OPTIONAL = True, False

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def usage(*names: str) -> x509.KeyUsage:
    """Return a key usage with these bits."""
    bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bit in names for bit in bits})


@dataclass(frozen=True)
class Plan:
    """One certificate to make; tests change single fields of a good one."""

    name: str
    extensions: tuple[tuple[x509.ExtensionType, bool], ...]
    key: PrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    not_before: datetime = START
    not_after: datetime = END
    issuer_name: str | None = None
    """None for the issuer's own name."""

    issuer_key: PrivateKey | None = None
    """None for the issuer's own key."""


def authority(name: str, path_length: int | None) -> Plan:
    """Return the plan of a CA as Nitro's are."""
    return Plan(
        name,
        (
            (x509.BasicConstraints(ca=True, path_length=path_length), CRITICAL),
            (usage("key_cert_sign", "crl_sign", "digital_signature"), CRITICAL),
        ),
    )


def good_plans() -> list[Plan]:
    """Return root, region, zone, instance and leaf."""
    leaf = Plan("leaf", ((x509.BasicConstraints(ca=False, path_length=None), CRITICAL), (LEAF_USAGE, OPTIONAL)))
    return [authority("root", None), authority("region", 2), authority("zone", 1), authority("instance", 0), leaf]


LEAF_USAGE = usage("digital_signature", "content_commitment")


def make(plans: Sequence[Plan]) -> list[bytes]:
    """Return the DER of each certificate, each issued by the one before it; the first signs itself."""
    made: list[bytes] = []
    for plan, issuer in zip(plans, [plans[0], *plans[:-1]], strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(plan.name))
            .issuer_name(_name(plan.issuer_name or issuer.name))
            .public_key(plan.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(plan.not_before)
            .not_valid_after(plan.not_after)
        )
        for extension, critical in plan.extensions:
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(plan.issuer_key or issuer.key, _supported(plan.digest))
        made.append(certificate.public_bytes(Encoding.DER))
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _supported(digest: hashes.HashAlgorithm) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    assert isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512)
    return digest


def root_of(ders: Sequence[bytes]) -> TrustRoot:
    """Pin the first certificate."""
    return TrustRoot.from_pem(x509.load_der_x509_certificate(ders[0]).public_bytes(Encoding.PEM))


def changed(position: int, **changes: Any) -> list[bytes]:
    """Return a good chain but for one certificate."""
    plans = good_plans()
    plans[position] = dataclasses.replace(plans[position], **changes)
    return make(plans)


def resigned(der: bytes, key: ec.EllipticCurvePrivateKey, change: Callable[[Any], None]) -> bytes:
    """Return a certificate with its inner part changed and signed anew: what no builder of certificates would write."""
    certificate = asn1_x509.Certificate.load(der)
    inner = certificate["tbs_certificate"]
    change(inner)
    certificate["signature_value"] = core.OctetBitString(key.sign(inner.dump(force=True), ec.ECDSA(hashes.SHA384())))
    return bytes(certificate.dump(force=True))


def with_changed_leaf(change: Callable[[Any], None]) -> list[bytes]:
    """Return a good chain but for its leaf, which its issuer has signed as it is."""
    plans = good_plans()
    ders = make(plans)
    issuer_key = plans[-2].key
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    return [*ders[:-1], resigned(ders[-1], issuer_key, change)]
