"""The certificates behind the stand-in NSM: a root of its own, and chains in the form of real hardware's.

Root, region (20 days), zone (6 days), instance (1 day), leaf (3 hours); P-384 and SHA-384 throughout, the extensions of
real chains, KeyUsage critical on CAs and not on leaves. The root is made once in a state folder; everything below it is
made by each process for itself, so that enclaves share nothing but the root.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from protocol.attestation import TrustRoot

LEAF_LIFETIME: Final = timedelta(hours=3)
_ROOT_LIFETIME: Final = timedelta(days=30 * 365)
_CA_LEVELS: Final = (timedelta(days=20), timedelta(days=6), timedelta(days=1))  # region, zone, instance
_CA_BACKDATE: Final = timedelta(hours=1)
_REGION: Final = "local"
_FOLDER: Final = "nitro-root"
_KEY_FILE: Final = "root.key"
_CERTIFICATE_FILE: Final = "root.pem"
_PRIVATE_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class DocumentSigner:
    """A leaf key with its chain: what signs documents for up to three hours."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    """DER."""

    cabundle: tuple[bytes, ...]
    """DER, root first, as in a document."""

    not_before_s: float
    not_after_s: float


@dataclass(frozen=True, slots=True)
class _Issuer:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class NitroAuthority:
    """The root key of a stand-in for Nitro hardware. Whoever reads it can forge documents, for this root only."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._root = _Issuer(key, certificate)

    @classmethod
    def in_folder(cls, state_dir: Path, *, now_s: float) -> Self:
        """Load the root from a state folder; make it there first if need be.

        Several processes may do this at once: the folder appears by one atomic rename with both files in it, and who
        comes second takes what the first has made.
        """
        folder = state_dir / _FOLDER
        if not folder.exists():
            _make_root_folder(folder, now_s)
        key = load_pem_private_key((folder / _KEY_FILE).read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{folder / _KEY_FILE} is not an EC key")
        return cls(key, x509.load_pem_x509_certificate((folder / _CERTIFICATE_FILE).read_bytes()))

    @classmethod
    def create(cls, *, now_s: float) -> Self:
        """Make a root that lives in memory only."""
        key = _new_key()
        name = _name("nitro-local.nitro-enclaves")
        now = _from_seconds(now_s)
        certificate = (
            _builder(name, name, key, now - _CA_BACKDATE, now + _ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True), critical=True)
            .sign(key, hashes.SHA384())
        )
        return cls(key, certificate)

    @property
    def certificate_pem(self) -> bytes:
        """The root certificate."""
        return self._root.certificate.public_bytes(Encoding.PEM)

    @property
    def trust_root(self) -> TrustRoot:
        """What a verifier of this authority's documents has to be given."""
        return TrustRoot(hashlib.sha256(_der(self._root.certificate)).digest())

    def issue_signer(self, module_id: str, *, now_s: float) -> DocumentSigner:
        """Make a whole new chain below the root for a module (`INSTANCE-encENCLAVE`)."""
        now = _from_seconds(now_s)
        instance_id = module_id.partition("-enc")[0]
        labels = (f"{_REGION}.nitro-local", f"zonal.{_REGION}.nitro-local", f"{instance_id}.{_REGION}.nitro-local")
        chain = [self._root]
        for level, (label, lifetime) in enumerate(zip(labels, _CA_LEVELS, strict=True)):
            path_length = len(labels) - 1 - level
            chain.append(_issue_ca(chain[-1], label, path_length, now - _CA_BACKDATE, now - _CA_BACKDATE + lifetime))
        key = _new_key()
        not_after = now + LEAF_LIFETIME
        leaf = (
            _builder(_name(f"{module_id}.{_REGION}.nitro-local"), chain[-1].certificate.subject, key, now, not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True, content_commitment=True), critical=False)
            .sign(chain[-1].key, hashes.SHA384())
        )
        return DocumentSigner(
            key=key,
            certificate=_der(leaf),
            cabundle=tuple(_der(issuer.certificate) for issuer in chain),
            not_before_s=leaf.not_valid_before_utc.timestamp(),
            not_after_s=leaf.not_valid_after_utc.timestamp(),
        )

    def write(self, folder: Path) -> None:
        """Write key (mode 0600) and certificate into a folder that exists."""
        pem = self._root.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        descriptor = os.open(folder / _KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        (folder / _CERTIFICATE_FILE).write_bytes(self.certificate_pem)


def _make_root_folder(folder: Path, now_s: float) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}.", dir=folder.parent))
    try:
        NitroAuthority.create(now_s=now_s).write(draft)
        draft.rename(folder)
    except OSError:
        # rename(2) does not replace a folder that has entries: another process was first, and its root is the root.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _issue_ca(issuer: _Issuer, label: str, path_length: int, not_before: datetime, not_after: datetime) -> _Issuer:
    key = _new_key()
    issuer_key_id = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_name(label), issuer.certificate.subject, key, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True), critical=True)
        .sign(issuer.key, hashes.SHA384())
    )
    return _Issuer(key, certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nitro-local"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "stand-in, not AWS"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    content_commitment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _from_seconds(time_s: float) -> datetime:
    return datetime.fromtimestamp(int(time_s), tz=UTC)  # certificates know whole seconds


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
