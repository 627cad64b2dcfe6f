"""The birth certificate: proof that a key was made inside a measured enclave.

A canonical CBOR map: `type` = "nitro-signer/birth/1", `statement` (canonical key statement), `sealed_sha256` (32 bytes,
`protocol.keyrecord.sealed_record_sha256`) and `document` (NSM attestation document). The document's `user_data` is
SHA-256("nitro-signer/birth/1" || statement || sealed_sha256); its `public_key` and `nonce` are null. A live attestation
uses another tag and a KMS document none, so that a document of one kind never passes for another.
"""

import base64
import hashlib
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError

from protocol.cbor import decode_canonical, encode_canonical
from protocol.model import StrictModel, describe_validation_error
from protocol.statement import MAX_STATEMENT_BYTES

BIRTH_TYPE: Final = "nitro-signer/birth/1"
_SHA256_BYTES: Final = 32
_MAX_DOCUMENT_BYTES: Final = 32 * 1024


class BirthCertificateError(ValueError):
    """The bytes are not a birth certificate."""


def birth_user_data(statement: bytes, sealed_sha256: bytes) -> bytes:
    """Return what the NSM document of a birth carries as `user_data` (32 bytes)."""
    return hashlib.sha256(BIRTH_TYPE.encode() + statement + sealed_sha256).digest()


class BirthCertificate(StrictModel):
    """An unverified certificate: its parts have the right form, nothing more."""

    type: Literal["nitro-signer/birth/1"] = BIRTH_TYPE
    statement: Annotated[bytes, Field(max_length=MAX_STATEMENT_BYTES)]
    sealed_sha256: Annotated[bytes, Field(min_length=_SHA256_BYTES, max_length=_SHA256_BYTES)]
    document: Annotated[bytes, Field(max_length=_MAX_DOCUMENT_BYTES)]

    def to_base64(self) -> str:
        """Return the text that stands in replies and in the certificate table."""
        return base64.b64encode(encode_canonical(self.model_dump())).decode()

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """Read the text form.

        Raises:
            BirthCertificateError: not base64, not canonical CBOR, or not these fields.
        """
        try:
            return cls.model_validate(decode_canonical(base64.b64decode(text, validate=True)))
        except ValidationError as error:
            raise BirthCertificateError(f"not a birth certificate: {describe_validation_error(error)}") from error
        except ValueError as error:  # not base64 (text that is not ASCII included), or a CborError
            raise BirthCertificateError(f"not a birth certificate: {error}") from error
