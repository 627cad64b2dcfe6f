"""The facts that a live attestation binds: what a running enclave is, at the moment of the caller's nonce.

A canonical CBOR map (`LiveFacts`). The NSM document's `user_data` is SHA-256("nitro-signer/live/1" || its bytes), its
`nonce` is the caller's, and its `public_key` is null.
"""

import hashlib
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError

from protocol.cbor import CborError, decode_canonical, encode_canonical
from protocol.messages import Role
from protocol.model import StrictModel, describe_validation_error

LIVE_TYPE: Final = "nitro-signer/live/1"


class LiveFactsError(ValueError):
    """The bytes are not the facts of a live attestation."""


class LiveFacts(StrictModel):
    """What the enclave states of itself; everything here but `instance` also follows from its measured image."""

    type: Literal["nitro-signer/live/1"] = LIVE_TYPE
    role: Annotated[Role, Field(strict=False)]
    software: str
    config_sha256: bytes
    kms_key_arn: str
    instance: bytes

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return encode_canonical(self.model_dump())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            LiveFactsError: another encoding, or a wrong or unknown field.
        """
        try:
            return cls.model_validate(decode_canonical(data))
        except CborError as error:
            raise LiveFactsError(str(error)) from error
        except ValidationError as error:
            raise LiveFactsError(describe_validation_error(error)) from error


def live_user_data(facts: bytes) -> bytes:
    """Return what the NSM document of a live attestation carries as `user_data` (32 bytes)."""
    return hashlib.sha256(LIVE_TYPE.encode() + facts).digest()
