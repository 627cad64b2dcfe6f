"""The key record: what DynamoDB holds of a key, item by item, and its checks on the parent.

Table `UserToken`, partition key `userid`. The first four attributes are what readers of the well-known demo expect.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import Field, ValidationError

from protocol.cbor import encode_canonical
from protocol.errors import ErrorCode, SignerError
from protocol.messages import SealedRecord
from protocol.model import StrictModel, UserId, describe_validation_error
from protocol.statement import KeyStatement

RECORD_FORMAT: Final = "nitro-signer/record/1"


def sealed_record_sha256(record: SealedRecord) -> bytes:
    """Return the SHA-256 of a sealed record: of the canonical CBOR array [sealed key, encrypted data key]."""
    return hashlib.sha256(encode_canonical([record.sealed_key, record.encrypted_data_key])).digest()


class KeyRecord(StrictModel):
    """One item of the key table. Made by `of` or `from_item`, which check that its parts agree."""

    userid: UserId
    record: SealedRecord
    public_key: bytes
    kms_key: str
    """The ARN under which the data key was made."""
    created_at: str
    """RFC 3339, UTC, seconds."""
    job_id: Annotated[str, Field(max_length=128)]

    @classmethod
    def of(cls, record: SealedRecord, *, kms_key: str, created_at: str, job_id: str) -> Self:
        """Make the record of a new key.

        Raises:
            StatementError: the enclave sent no valid statement.
        """
        statement = KeyStatement.from_bytes(record.statement)
        return cls(
            userid=statement.userid,
            record=record,
            public_key=statement.public_key,
            kms_key=kms_key,
            created_at=created_at,
            job_id=job_id,
        )

    def to_item(self) -> dict[str, str]:
        """Return the attributes, all of them strings."""
        return {
            "userid": self.userid,
            "encrypted_privatekey": base64.b64encode(self.record.sealed_key).decode(),
            "publickey": self.public_key.hex(),
            "encrypted_datakey": base64.b64encode(self.record.encrypted_data_key).decode(),
            "format": RECORD_FORMAT,
            "kms_key": self.kms_key,
            "statement": base64.b64encode(self.record.statement).decode(),
            "created_at": self.created_at,
            "job_id": self.job_id,
        }

    @classmethod
    def from_item(cls, item: Mapping[str, str]) -> Self:
        """Read an item; the user id and the public key must be those of its statement.

        Raises:
            SignerError: `record_refused`, with what does not fit.
        """
        try:
            if item["format"] != RECORD_FORMAT:
                raise SignerError(ErrorCode.RECORD_REFUSED, f"the key record is not in the format {RECORD_FORMAT}")
            record = SealedRecord(
                statement=base64.b64decode(item["statement"], validate=True),
                sealed_key=base64.b64decode(item["encrypted_privatekey"], validate=True),
                encrypted_data_key=base64.b64decode(item["encrypted_datakey"], validate=True),
            )
            found = cls.of(record, kms_key=item["kms_key"], created_at=item["created_at"], job_id=item["job_id"])
            shown = item["userid"], item["publickey"]
        except KeyError as error:
            raise SignerError(ErrorCode.RECORD_REFUSED, f"the key record has no {error.args[0]}") from error
        except ValidationError as error:
            raise SignerError(ErrorCode.RECORD_REFUSED, describe_validation_error(error)) from error
        except ValueError as error:  # not base64 (text that is not ASCII included), or a StatementError
            raise SignerError(ErrorCode.RECORD_REFUSED, str(error)) from error
        if shown != (found.userid, found.public_key.hex()):
            raise SignerError(ErrorCode.RECORD_REFUSED, "user id or public key is not that of the key statement")
        return found
