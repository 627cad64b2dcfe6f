"""Parts of made-up images, and signatures over them."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocol.attestation.cose import PROTECTED_HEADER, signed_bytes
from protocol.cbor import encode

KERNEL = b"kernel"
COMMAND_LINE = b"reboot=k panic=30"
BOOT = b"boot ramdisk"
APPLICATION = b"application ramdisk"
METADATA = b'{"ImageName": "test"}'


class ImageSigner:
    """A P-384 key with a self-signed certificate, as `openssl req -x509` makes them for the Nitro CLI."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.key = ec.generate_private_key(curve or ec.SECP384R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "image signer")])
        start = datetime(2026, 1, 1, tzinfo=UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .sign(self.key, hashes.SHA384())
        )

    def cose(self, payload: bytes) -> bytes:
        """Return a COSE_Sign1 over a payload."""
        r, s = decode_dss_signature(self.key.sign(signed_bytes(payload), ec.ECDSA(hashes.SHA384())))
        size = (self.key.curve.key_size + 7) // 8
        return encode([PROTECTED_HEADER, {}, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big")])

    def section(self, pcr0: bytes) -> bytes:
        """Return the content of a signature section."""
        payload = encode({"register_index": 0, "register_value": list(pcr0)})
        pem = self.certificate.public_bytes(Encoding.PEM)
        return encode([{"signing_certificate": list(pem), "signature": list(self.cose(payload))}])
