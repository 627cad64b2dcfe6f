"""The bodies of requests as values. Unknown members are ignored, as KMS does: Encrypt with a Recipient has none."""

import base64
import binascii
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_pascal

from local.kms.errors import KmsError, validation_error
from protocol.model import StrictModel, describe_validation_error

MAX_PLAINTEXT_BYTES: Final = 4096
MAX_BLOB_BYTES: Final = 6144
MAX_RANDOM_BYTES: Final = 1024
MAX_DOCUMENT_BYTES: Final = 262_144
_KEY_SPEC_BYTES: Final = {"AES_128": 16, "AES_256": 32}


def _from_base64(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("a text in base64")  # noqa: TRY004 - pydantic's way
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("a text in base64") from error


_Blob = Annotated[bytes, BeforeValidator(_from_base64)]
_KeyId = Annotated[str, Field(min_length=1, max_length=2048)]
_NumberOfBytes = Annotated[int, Field(ge=1, le=MAX_RANDOM_BYTES)]
_PolicyText = Annotated[str, Field(min_length=1, max_length=131_072)]
_Context = Annotated[dict[str, str], Field(default_factory=dict)]
_PolicyName = Literal["default"]


class Input(StrictModel):
    """The base of all: names as on the wire, `KeyId` for `key_id`."""

    model_config = ConfigDict(alias_generator=to_pascal, extra="ignore")


class RecipientInfo(Input):
    """`Recipient`: whom to encrypt the answer to."""

    attestation_document: Annotated[_Blob, Field(min_length=1, max_length=MAX_DOCUMENT_BYTES)]
    key_encryption_algorithm: Literal["RSAES_OAEP_SHA_256"]


class GenerateRandomInput(Input):
    """GenerateRandom."""

    number_of_bytes: _NumberOfBytes
    recipient: RecipientInfo | None = None


class GenerateDataKeyInput(Input):
    """GenerateDataKey: exactly one of `number_of_bytes` and `key_spec`."""

    key_id: _KeyId
    number_of_bytes: _NumberOfBytes | None = None
    key_spec: Literal["AES_128", "AES_256"] | None = None
    encryption_context: _Context
    recipient: RecipientInfo | None = None
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.number_of_bytes is None) == (self.key_spec is None):
            raise ValueError("Please specify either number of bytes or key spec.")
        return self

    @property
    def length_bytes(self) -> int:
        """Length of the data key."""
        return self.number_of_bytes or _KEY_SPEC_BYTES[self.key_spec or "AES_256"]


class DecryptInput(Input):
    """Decrypt."""

    ciphertext_blob: Annotated[_Blob, Field(min_length=1, max_length=MAX_BLOB_BYTES)]
    key_id: _KeyId | None = None
    encryption_context: _Context
    encryption_algorithm: Literal["SYMMETRIC_DEFAULT"] = "SYMMETRIC_DEFAULT"
    recipient: RecipientInfo | None = None
    dry_run: bool = False


class EncryptInput(Input):
    """Encrypt; it knows no Recipient."""

    key_id: _KeyId
    plaintext: Annotated[_Blob, Field(min_length=1, max_length=MAX_PLAINTEXT_BYTES)]
    encryption_context: _Context
    encryption_algorithm: Literal["SYMMETRIC_DEFAULT"] = "SYMMETRIC_DEFAULT"
    dry_run: bool = False


class CreateKeyInput(Input):
    """CreateKey, symmetric keys only."""

    policy: _PolicyText | None = None
    description: Annotated[str, Field(max_length=8192)] = ""
    key_usage: Literal["ENCRYPT_DECRYPT"] = "ENCRYPT_DECRYPT"
    key_spec: Literal["SYMMETRIC_DEFAULT"] = "SYMMETRIC_DEFAULT"
    origin: Literal["AWS_KMS"] = "AWS_KMS"
    multi_region: Literal[False] = False
    bypass_policy_lockout_safety_check: bool = False


class CreateAliasInput(Input):
    """CreateAlias."""

    alias_name: Annotated[str, Field(min_length=1, max_length=256)]
    target_key_id: _KeyId


class KeyInput(Input):
    """DescribeKey, EnableKey, DisableKey."""

    key_id: _KeyId


class GetKeyPolicyInput(Input):
    """GetKeyPolicy."""

    key_id: _KeyId
    policy_name: _PolicyName = "default"


class PutKeyPolicyInput(Input):
    """PutKeyPolicy."""

    key_id: _KeyId
    policy: _PolicyText
    policy_name: _PolicyName = "default"
    bypass_policy_lockout_safety_check: bool = False


class ListInput(Input):
    """ListKeys, ListAliases: everything in one page."""


InputT = TypeVar("InputT", bound=Input)


def parse_input(model: type[InputT], body: bytes) -> InputT:
    """Parse a body.

    Raises:
        KmsError: SerializationException for what is not JSON, ValidationException for a wrong member.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if any(problem["type"] == "json_invalid" for problem in error.errors(include_url=False)):
            raise KmsError("SerializationException", "the body is not JSON") from error
        raise validation_error(f"Validation error detected: {describe_validation_error(error)}") from error
