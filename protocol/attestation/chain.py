"""The certificate chain of an attestation document: pinned root, then the bundle in its exact order, then the leaf.

Path validation (signatures, names, path lengths, CA flags, unknown critical extensions) is left to the `cryptography`
package. What it does not check is checked here: the bundle's order and padding, key usages, that the leaf is no CA, and
that every key is P-384 and every signature ECDSA with SHA-384.
"""

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import SignatureAlgorithmOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from protocol.attestation.errors import AttestationError, FailedCheck

MAX_INTERMEDIATES: Final = 3
"""Region, zone, instance: what every real document seen has, and what the root's pathLen chain allows."""

_CACHED_CHAINS = 256
_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,
)
"""What the library says of a certificate whose bytes are wrong. The warning, for a serial number that is not positive,
comes as an exception where warnings are errors."""

_FINGERPRINT_BYTES = 32


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """A root certificate, by the SHA-256 of its DER. The certificate itself comes first in a document's bundle."""

    fingerprint: bytes

    def __post_init__(self) -> None:
        if len(self.fingerprint) != _FINGERPRINT_BYTES:
            raise ValueError(f"a SHA-256 fingerprint has {_FINGERPRINT_BYTES} bytes, not {len(self.fingerprint)}")

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Pin the one certificate of a PEM file.

        Raises:
            ValueError: not exactly one certificate.
        """
        certificates = x509.load_pem_x509_certificates(pem)
        if len(certificates) != 1:
            raise ValueError(f"a trust root is one certificate, not {len(certificates)}")
        return cls(hashlib.sha256(certificates[0].public_bytes(Encoding.DER)).digest())


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that leads from the root to `signer`. Its time is not judged yet: see `check_valid_at`."""

    signer: ec.EllipticCurvePublicKey
    not_before: datetime
    """Latest start of validity of all its certificates, UTC."""

    not_after: datetime
    """Earliest end of validity of all its certificates, UTC."""

    def check_valid_at(self, time_s: float) -> None:
        """Check that every certificate is valid at a time (seconds since the Unix epoch).

        Raises:
            AttestationError: TIME.
        """
        if not self.not_before.timestamp() <= time_s <= self.not_after.timestamp():
            raise AttestationError(
                FailedCheck.TIME,
                f"the certificates are valid from {self.not_before.isoformat()} to {self.not_after.isoformat()}, "
                f"not at {time_s:.3f} s",
            )


@functools.lru_cache(maxsize=_CACHED_CHAINS)
def verify_chain(root: TrustRoot, leaf: bytes, cabundle: tuple[bytes, ...]) -> VerifiedChain:
    """Verify DER certificates; `cabundle` is in the document's order, root first.

    The only thing in path validation that depends on time are the validity periods, so a chain that holds at one moment
    holds at every moment in the intersection of those. The result is cached under the certificates' bytes: an enclave
    keeps its leaf for hours, so verifying many documents costs one chain and one signature each.

    Raises:
        AttestationError: ROOT or CHAIN.
    """
    if hashlib.sha256(cabundle[0]).digest() != root.fingerprint:
        raise AttestationError(FailedCheck.ROOT, "the first certificate of the bundle is not the pinned root")
    if len(cabundle) > 1 + MAX_INTERMEDIATES:  # before the library tries every path through them
        raise _wrong(f"{len(cabundle)} certificates in the bundle; the limit is {1 + MAX_INTERMEDIATES}")
    try:
        return _verify(leaf, cabundle)
    except _UNREADABLE as error:  # a field is read when it is first asked for, so any step may come here
        raise _wrong(f"malformed certificate: {error}") from error


def _verify(leaf: bytes, cabundle: tuple[bytes, ...]) -> VerifiedChain:
    anchor, *intermediates = (x509.load_der_x509_certificate(der) for der in cabundle)
    signer = x509.load_der_x509_certificate(leaf)
    ordered = [signer, *reversed(intermediates), anchor]
    for certificate in ordered:
        _check_algorithms(certificate)
    for authority in ordered[1:]:
        _check_authority(authority)
    signer_key = _check_leaf(signer)
    not_before = max(certificate.not_valid_before_utc for certificate in ordered)
    not_after = min(certificate.not_valid_after_utc for certificate in ordered)
    if not_before > not_after:
        raise _wrong("there is no moment at which all certificates are valid")
    _check_path(signer, intermediates, anchor, at=not_before)
    return VerifiedChain(signer=signer_key, not_before=not_before, not_after=not_after)


def _check_path(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], anchor: x509.Certificate, at: datetime
) -> None:
    # The library's default policies demand an AuthorityKeyIdentifier, which no Nitro leaf has, and a critical or
    # non-critical flag that differs from Nitro's; so the policies are spelled out. KeyUsage is not critical on leaves.
    ca_policy = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, None)
        .require_present(x509.KeyUsage, Criticality.CRITICAL, None)
    )
    leaf_policy = ExtensionPolicy.permit_all().require_present(x509.KeyUsage, Criticality.AGNOSTIC, None)
    verifier = (
        PolicyBuilder()
        .store(Store([anchor]))
        .time(at)
        .max_chain_depth(MAX_INTERMEDIATES)
        .extension_policies(ca_policy=ca_policy, ee_policy=leaf_policy)
        .build_client_verifier()
    )
    try:
        chain = verifier.verify(leaf, intermediates).chain
    except VerificationError as error:
        raise _wrong(f"path validation: {error}") from error
    # The library searches for a path: it would skip a padded certificate and sort a shuffled bundle.
    if chain != [leaf, *reversed(intermediates), anchor]:
        raise _wrong("the bundle is not root, region, zone, instance in this order with nothing else in it")


def _check_algorithms(certificate: x509.Certificate) -> None:
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise _wrong("a certificate is not signed by ECDSA with SHA-384")
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP384R1):
        raise _wrong("a certificate has a key that is not on P-384")


def _check_authority(certificate: x509.Certificate) -> None:
    extensions = certificate.extensions
    if not _is_ca(extensions):
        raise _wrong("a certificate of the bundle is not a CA")
    if not _key_usage(extensions).key_cert_sign:
        raise _wrong("a certificate of the bundle may not sign certificates")


def _check_leaf(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    extensions = certificate.extensions
    if _is_ca(extensions):
        raise _wrong("the leaf certificate is a CA")
    if not _key_usage(extensions).digital_signature:
        raise _wrong("the leaf certificate may not make digital signatures")
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101 - for the type checker; _check_algorithms
    return public_key


def _is_ca(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _key_usage(extensions: x509.Extensions) -> x509.KeyUsage:
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise _wrong("a certificate does not state its key usage") from error


def _wrong(text: str) -> AttestationError:
    return AttestationError(FailedCheck.CHAIN, text)
