"""The signature section: CBOR, an array of one map {signing_certificate: PEM, signature: COSE_Sign1}.

Both values are arrays of numbers, because that is how the Nitro CLI's library writes bytes. The payload of the
signature is {register_index: 0, register_value: PCR0}: it signs the image and nothing else. The hardware checks it
before it starts the enclave and puts the certificate's measurement into PCR8.
"""

from dataclasses import dataclass
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.attestation.cose import CoseSign1, parse_cose_sign1
from protocol.attestation.errors import AttestationError
from protocol.cbor import CborError, decode, is_list
from workers.image.eif import EifError


@dataclass(frozen=True, slots=True)
class ImageSignature:
    """A well-formed signature that nobody has checked yet."""

    certificate: x509.Certificate
    envelope: CoseSign1

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read the content of a signature section.

        Raises:
            EifError: names the part that is wrong.
        """
        match _decode(content, "the signature section"):
            case [{"signing_certificate": certificate, "signature": signature, **others}] if not others:
                pass
            case _:
                raise EifError("the signature section is not one certificate with one signature")
        try:
            return cls(
                x509.load_pem_x509_certificate(_bytes(certificate, "the signing certificate")),
                parse_cose_sign1(_bytes(signature, "the signature")),
            )
        except EifError:
            raise
        except AttestationError as error:
            raise EifError(f"the signature: {error.text}") from error
        except ValueError as error:
            raise EifError("the signing certificate is not a PEM certificate") from error

    @property
    def certificate_der(self) -> bytes:
        """What PCR8 measures."""
        return self.certificate.public_bytes(Encoding.DER)

    def verify(self, pcr0: bytes) -> None:
        """Check that the certificate's key signed this image. Who issued it is not judged: PCR8 pins it.

        Raises:
            EifError: another key, or another image.
        """
        try:
            public_key = self.certificate.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise EifError("the signing certificate has an unknown kind of key") from error
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP384R1):
            raise EifError("the signing certificate has another key than P-384")
        try:
            self.envelope.verify(public_key)
        except AttestationError as error:
            raise EifError("the signature is not that of its certificate") from error
        if _decode(self.envelope.payload, "what is signed") != {"register_index": 0, "register_value": list(pcr0)}:
            raise EifError("the signature is that of another image")


def _decode(data: bytes, name: str) -> Any:
    try:
        return decode(data)
    except CborError as error:
        raise EifError(f"{name} is {error}") from error


def _bytes(value: Any, name: str) -> bytes:
    """Return an array of numbers as bytes; its elements are not judged before this."""
    try:
        if is_list(value) and all(type(item) is int for item in value):
            return bytes(value)
    except ValueError as error:
        raise EifError(f"{name} has a number that is not a byte") from error
    raise EifError(f"{name} is not an array of bytes")
