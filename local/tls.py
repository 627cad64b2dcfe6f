"""A certificate authority of this machine and the server certificate of the stand-in KMS.

Made at first start in `STATE/tls`: `ca.pem` is for clients. The extensions are those that strict verification asks for
(RFC 5280; OpenSSL's X509_V_FLAG_X509_STRICT, Python's default from 3.13 on).
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local.files import write_private

_CA_LIFETIME: Final = timedelta(days=3650)
_SERVER_LIFETIME: Final = timedelta(days=397)
"""What public clients accept at most."""

_RENEW_BEFORE: Final = timedelta(days=30)
_BACKDATE: Final = timedelta(hours=1)
_CA_FILE: Final = "ca.pem"
_CA_KEY_FILE: Final = "ca.key"
_SERVER_FILE: Final = "server.pem"
"""Key and certificate in one file, so that they change together."""


@dataclass(frozen=True, slots=True)
class LocalTls:
    """The files of one state folder."""

    folder: Path

    @classmethod
    def in_folder(cls, state_dir: Path, host_names: Sequence[str], *, now_s: float) -> Self:
        """Load CA and server certificate; make what is missing, near its end or for other names."""
        tls = cls(state_dir / "tls")
        tls.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = datetime.fromtimestamp(int(now_s), tz=UTC)
        if not tls.ca_bundle.exists():
            tls._make_ca(now)
        if not tls._has_server_certificate(host_names, now):
            tls._make_server_certificate(host_names, now)
        return tls

    @property
    def ca_bundle(self) -> Path:
        """The CA certificate, PEM: what a client has to be given."""
        return self.folder / _CA_FILE

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS settings of a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.folder / _SERVER_FILE)
        return context

    def _make_ca(self, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("nitro-local CA")
        certificate = (
            _builder(name, name, key, now, _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(self.folder / _CA_KEY_FILE, _key_pem(key))
        write_private(self.ca_bundle, certificate.public_bytes(Encoding.PEM))

    def _has_server_certificate(self, host_names: Sequence[str], now: datetime) -> bool:
        path = self.folder / _SERVER_FILE
        if not path.exists():
            return False
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return certificate.not_valid_after_utc - now > _RENEW_BEFORE and list(names) == _general_names(host_names)

    def _make_server_certificate(self, host_names: Sequence[str], now: datetime) -> None:
        ca = x509.load_pem_x509_certificate(self.ca_bundle.read_bytes())
        ca_key = load_pem_private_key((self.folder / _CA_KEY_FILE).read_bytes(), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self.folder / _CA_KEY_FILE} is not an EC key")
        ca_key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(host_names[0]), ca.subject, key, now, _SERVER_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(_general_names(host_names)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        write_private(self.folder / _SERVER_FILE, _key_pem(key) + certificate.public_bytes(Encoding.PEM))


def kms_tls(state_dir: Path, region: str, *, now_s: float) -> LocalTls:
    """Return the certificates of the stand-in KMS of a Region, by every name that a client may call it."""
    return LocalTls.in_folder(state_dir, ("localhost", f"kms.{region}.localhost", "127.0.0.1", "::1"), now_s=now_s)


def _general_names(host_names: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host_name in host_names:
        try:
            names.append(x509.IPAddress(ip_address(host_name)))
        except ValueError:
            names.append(x509.DNSName(host_name))
    return names


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + lifetime)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nitro-local"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
