"""The key statement: what a key is and what it may be used with. AAD, encryption context and birth certificate bind it.

A canonical CBOR map (RFC 8949 section 4.2.3), so that equal statements have equal bytes:

    "type"        "nitro-signer/key/1"
    "userid"      text, see `protocol.model.USERID_PATTERN`
    "algorithm"   "secp256k1"
    "public_key"  64 bytes, x || y
    "kms_key"     {"partition": text, "account": text, "key_id": text}; not the Region, so that a multi-Region
                  replica of the KMS key can open the record
"""

import hashlib
import re
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError

from protocol.cbor import CborError, decode_canonical, encode_canonical
from protocol.model import StrictModel, UserId, describe_validation_error

STATEMENT_TYPE: Final = "nitro-signer/key/1"
MAX_STATEMENT_BYTES: Final = 1024
"""A statement with the longest user id and ids has under 400 bytes; a later version may bind more."""

PUBLIC_KEY_BYTES: Final = 64

_KMS_KEY_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]{1,32}):([0-9]{12}):key/([A-Za-z0-9-]{1,64})")


class StatementError(ValueError):
    """The bytes are not a key statement in its canonical form."""


class KmsKey(StrictModel):
    """A KMS key without its Region."""

    partition: Annotated[str, Field(max_length=16)]
    account: Annotated[str, Field(pattern=r"^[0-9]{12}$")]
    key_id: Annotated[str, Field(max_length=64)]

    @classmethod
    def from_arn(cls, arn: str) -> Self:
        """Take a key ARN (`arn:aws:kms:REGION:ACCOUNT:key/ID`; an alias is not one) apart.

        Raises:
            ValueError: not the ARN of a KMS key.
        """
        match = _KMS_KEY_ARN.fullmatch(arn)
        if match is None:
            raise ValueError(f"{arn!r} is not a KMS key ARN (arn:aws:kms:REGION:ACCOUNT:key/ID)")
        return cls(partition=match[1], account=match[3], key_id=match[4])


def region_of_arn(arn: str) -> str:
    """Return the Region of a KMS key ARN.

    Raises:
        ValueError: not the ARN of a KMS key.
    """
    KmsKey.from_arn(arn)
    return arn.split(":")[3]


class KeyStatement(StrictModel):
    """The statement as a value."""

    type: Literal["nitro-signer/key/1"] = STATEMENT_TYPE
    userid: UserId
    algorithm: Literal["secp256k1"] = "secp256k1"
    public_key: Annotated[bytes, Field(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    kms_key: KmsKey

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: exactly what is bound everywhere."""
        return encode_canonical(self.model_dump())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            StatementError: too long, another encoding, a wrong or unknown field.
        """
        if len(data) > MAX_STATEMENT_BYTES:
            raise StatementError(f"a key statement of {len(data)} bytes; the limit is {MAX_STATEMENT_BYTES}")
        try:
            return cls.model_validate(decode_canonical(data))
        except CborError as error:
            raise StatementError(f"not a key statement: {error}") from error
        except ValidationError as error:
            raise StatementError(f"not a key statement: {describe_validation_error(error)}") from error


def encryption_context(userid: str, statement: bytes) -> dict[str, str]:
    """Return the KMS encryption context of a key: it binds the user id and the statement's SHA-256.

    CloudTrail shows it in clear text.
    """
    return {"userid": userid, "statement_sha256": hashlib.sha256(statement).hexdigest()}
