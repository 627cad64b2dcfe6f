"""The messages between parent and enclave, as values, and their form inside a frame.

A frame's body is one CBOR map with exactly four keys: `v` (protocol version), `id` (request id, chosen by the parent,
at least 1), `type` and `body` (a map). Requests have the types of `REQUESTS`. Answers have type `result` or `error` and
the id of their request; an `error` with id 0 speaks of the connection and closes it. The enclave sends `events` with
id 0.
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from protocol.cbor import CborError, decode, encode, is_list, is_map
from protocol.errors import ErrorCode, RemoteProtocolError, SignerError
from protocol.model import StrictModel, UserId, describe_validation_error
from protocol.statement import MAX_STATEMENT_BYTES

Model = TypeVar("Model", bound=StrictModel)

PROTOCOL_VERSION: Final = 1
SUPPORTED_VERSIONS: Final = (1,)

CONNECTION_ID: Final = 0
"""The id of what is not an answer to a request."""

MAX_REQUEST_ID: Final = 2**32 - 1
MAX_BATCH_ITEMS: Final = 1000
"""As many as a bulk job may have; a batch is bounded by the frame as well."""

MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_SEALED_KEY_BYTES: Final = 128
"""Nonce 12 + private key 32 + tag 16 = 60; room for a later format."""

MAX_ENCRYPTED_DATA_KEY_BYTES: Final = 6144
"""Largest CiphertextBlob (KMS API reference, Decrypt)."""

DIGEST_BYTES: Final = 32


@unique
class Role(StrEnum):
    """What an enclave image is for. Measured."""

    GENERATOR = "generator"
    SIGNER = "signer"


@unique
class NotReadyReason(StrEnum):
    """Why an enclave that runs does not work. A closed set: nothing else crosses."""

    STARTING = "starting"
    BAD_CONFIG = "bad_config"
    NSM_UNAVAILABLE = "nsm_unavailable"
    SELF_TEST_FAILED = "self_test_failed"
    DEBUG_MODE = "debug_mode"
    CLOCK_DRIFT = "clock_drift"
    NO_CREDENTIALS = "no_credentials"
    CREDENTIALS_EXPIRED = "credentials_expired"


@unique
class Digest(StrEnum):
    """How a message becomes the 32 bytes that are signed."""

    SHA256 = "sha256"
    KECCAK256 = "keccak256"
    NONE = "none"
    EIP191 = "eip191"


@unique
class Scheme(StrEnum):
    """Signature scheme on secp256k1."""

    ECDSA = "ecdsa"
    SCHNORR = "schnorr"


@unique
class SignatureFormat(StrEnum):
    """How a signature is written: r||s (64 bytes), DER, or r||s||v (65 bytes, v is 0 or 1)."""

    COMPACT = "compact"
    DER = "der"
    RECOVERABLE = "recoverable"


class ErrorBody(StrictModel):
    """A failure: a code of the closed set and whether trying again can help."""

    code: Annotated[str, Field(max_length=64)]
    retryable: bool

    @classmethod
    def of(cls, code: ErrorCode) -> Self:
        """Return the wire form of a code."""
        return cls(code=code.value, retryable=code.retryable)

    def to_error(self) -> SignerError:
        """Return the exception; a code that a newer peer invented becomes one of ours by its flag."""
        try:
            return SignerError(ErrorCode(self.code))
        except ValueError:
            return SignerError(ErrorCode.INTERNAL if self.retryable else ErrorCode.BAD_REQUEST, "unknown error code")


class Hello(StrictModel):
    """The first request of a connection."""

    versions: Annotated[tuple[int, ...], Field(min_length=1, max_length=16, strict=False)]
    software: Annotated[str, Field(max_length=64)]
    events: bool = False
    """Whether the enclave's log events shall come over this connection."""


class Limits(StrictModel):
    """What one enclave process takes."""

    max_frame_bytes: Annotated[int, Field(ge=1)]
    max_batch_items: Annotated[int, Field(ge=1)]
    max_in_flight: Annotated[int, Field(ge=1)]


class EnclaveFacts(StrictModel):
    """What an enclave says of itself. The parent uses it to find faults, never to trust."""

    role: Annotated[Role | None, Field(strict=False)]
    """None when the measured config could not be read."""

    software: str
    instance: bytes
    """16 random bytes per server process and start: another value means that it was restarted."""

    module_id: str | None
    pcr0: bytes | None
    config_sha256: bytes | None
    kms_key_arn: str | None
    processes: int
    """Server processes of this enclave; process `i` listens on the base address's i-th sibling."""


class HelloResult(StrictModel):
    """The answer to `Hello`."""

    version: int
    limits: Limits
    enclave: EnclaveFacts
    ready: bool
    reason: Annotated[NotReadyReason | None, Field(strict=False)]


_CREDENTIAL_PATTERN: Final = r"^[!-~]+$"
"""Printable ASCII without spaces. Credentials become headers of the enclave's own TLS session with KMS: one with a line
break would let the parent write requests there, whose answers could pass for those to the enclave."""


class SetCredentials(StrictModel):
    """Temporary AWS credentials of the instance role, for calls to KMS only."""

    access_key_id: Annotated[str, Field(max_length=128, pattern=_CREDENTIAL_PATTERN, repr=False)]
    secret_access_key: Annotated[str, Field(max_length=256, pattern=_CREDENTIAL_PATTERN, repr=False)]
    session_token: Annotated[str | None, Field(max_length=8192, pattern=_CREDENTIAL_PATTERN, repr=False)]
    expires_at_s: Annotated[int | None, Field(ge=0)]
    """Unix time in seconds; None for credentials that do not expire."""


class SetCredentialsResult(StrictModel):
    """The answer to `SetCredentials`."""

    expires_in_s: int | None


class Status(StrictModel):
    """Asks how an enclave process is."""


class StatusResult(StrictModel):
    """The answer to `Status`."""

    ready: bool
    reason: Annotated[NotReadyReason | None, Field(strict=False)]
    credentials_expire_in_s: int | None
    in_flight: int
    counters: dict[str, int]
    """What this process has counted since its start; empty while it has not started."""


class Attest(StrictModel):
    """Asks for a live attestation document."""

    nonce: Annotated[bytes, Field(min_length=16, max_length=64)]


class AttestResult(StrictModel):
    """The NSM document and the public facts that its `user_data` binds (canonical CBOR)."""

    document: bytes
    facts: bytes


class BadItem(StrictModel):
    """What an item of a batch becomes when it is malformed, so that it fails alone."""

    detail: str


def _bad_items_aside(model: type[StrictModel]) -> WrapValidator:
    """Return a validator of a batch that checks all items at once, and one by one when that fails."""

    def one(item: object) -> StrictModel:
        try:
            return model.model_validate(item)
        except ValidationError as error:
            return BadItem(detail=describe_validation_error(error))

    def check(items: object, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(items)
        except ValidationError:
            if not is_list(items) or not 0 < len(items) <= MAX_BATCH_ITEMS:
                raise
            return validate([one(item) for item in items])

    return WrapValidator(check)


class GenerateItem(StrictModel):
    """One key to make."""

    userid: UserId


class Generate(StrictModel):
    """Makes keys; for the generator role."""

    items: Annotated[
        tuple[Annotated[GenerateItem | BadItem, Field(union_mode="left_to_right")], ...],
        Field(min_length=1, max_length=MAX_BATCH_ITEMS, strict=False),
        _bad_items_aside(GenerateItem),
    ]


class SealedRecord(StrictModel):
    """A key as it is stored: nothing here is secret, and nothing here is trusted by the enclave."""

    statement: Annotated[bytes, Field(max_length=MAX_STATEMENT_BYTES)]
    sealed_key: Annotated[bytes, Field(max_length=MAX_SEALED_KEY_BYTES)]
    encrypted_data_key: Annotated[bytes, Field(max_length=MAX_ENCRYPTED_DATA_KEY_BYTES)]


class GeneratedKey(StrictModel):
    """A new key: its record and the NSM document of its birth."""

    record: SealedRecord
    birth_document: bytes


class _ItemResult(StrictModel):
    error: ErrorBody | None = None


class GenerateItemResult(_ItemResult):
    """One key or one error."""

    key: GeneratedKey | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.key is None) == (self.error is None):
            raise ValueError("exactly one of key and error")
        return self


class GenerateResult(StrictModel):
    """The answer to `Generate`, in the order of its items."""

    results: Annotated[tuple[GenerateItemResult, ...], Field(strict=False)]


class SignItem(StrictModel):
    """One message to sign with the key of one user."""

    userid: UserId
    record: SealedRecord
    message: Annotated[bytes, Field(max_length=MAX_MESSAGE_BYTES)]
    digest: Annotated[Digest, Field(strict=False)] = Digest.SHA256
    scheme: Annotated[Scheme, Field(strict=False)] = Scheme.ECDSA
    format: Annotated[SignatureFormat, Field(strict=False)] = SignatureFormat.COMPACT
    authorization: None = None
    """Reserved for the client's own signature over the job."""


class Sign(StrictModel):
    """Signs; for the signer role."""

    items: Annotated[
        tuple[Annotated[SignItem | BadItem, Field(union_mode="left_to_right")], ...],
        Field(min_length=1, max_length=MAX_BATCH_ITEMS, strict=False),
        _bad_items_aside(SignItem),
    ]


class SignItemResult(_ItemResult):
    """One signature or one error."""

    signature: Annotated[bytes | None, Field(max_length=80)] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.signature is None) == (self.error is None):
            raise ValueError("exactly one of signature and error")
        return self


class SignResult(StrictModel):
    """The answer to `Sign`, in the order of its items."""

    results: Annotated[tuple[SignItemResult, ...], Field(strict=False)]


class Events(StrictModel):
    """Log events of the enclave, oldest first."""

    events: Annotated[tuple[dict[str, Any], ...], Field(max_length=1000, strict=False)]
    dropped: int
    """How many events the bounded ring has lost since the last notice."""


Request = Hello | SetCredentials | Status | Attest | Generate | Sign
Result = HelloResult | SetCredentialsResult | StatusResult | AttestResult | GenerateResult | SignResult

REQUESTS: Final[Mapping[str, type[Request]]] = {
    "hello": Hello,
    "credentials": SetCredentials,
    "status": Status,
    "attest": Attest,
    "generate": Generate,
    "sign": Sign,
}
RESULTS: Final[Mapping[type[Request], type[Result]]] = {
    Hello: HelloResult,
    SetCredentials: SetCredentialsResult,
    Status: StatusResult,
    Attest: AttestResult,
    Generate: GenerateResult,
    Sign: SignResult,
}
REQUEST_TYPES: Final[Mapping[type[Request], str]] = {model: name for name, model in REQUESTS.items()}

RESULT_TYPE: Final = "result"
ERROR_TYPE: Final = "error"
EVENTS_TYPE: Final = "events"


class Envelope(StrictModel):
    """What every frame holds."""

    v: Annotated[int, Field(ge=min(SUPPORTED_VERSIONS), le=max(SUPPORTED_VERSIONS))]
    id: Annotated[int, Field(ge=0, le=MAX_REQUEST_ID)]
    type: Annotated[str, Field(max_length=32)]
    body: dict[str, Any]


def encode_envelope(request_id: int, kind: str, body: StrictModel) -> bytes:
    """Return the body of a frame."""
    return encode({"v": PROTOCOL_VERSION, "id": request_id, "type": kind, "body": body.model_dump(mode="python")})


def decode_envelope(data: bytes) -> Envelope:
    """Read the body of a frame.

    Raises:
        RemoteProtocolError: not strict CBOR, another version (both are named), or not an envelope.
    """
    try:
        value: object = decode(data)
    except CborError as error:
        raise RemoteProtocolError(ErrorCode.BAD_FRAME, str(error)) from error
    version = value.get("v") if is_map(value) else None
    if type(version) is int and version not in SUPPORTED_VERSIONS:
        raise RemoteProtocolError(
            ErrorCode.UNSUPPORTED_VERSION, f"the peer speaks version {version}, we speak {SUPPORTED_VERSIONS}"
        )
    return decode_body(Envelope, value)


def decode_body(model: type[Model], value: object) -> Model:
    """Check a decoded value against its model.

    Raises:
        RemoteProtocolError: names the wrong fields.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RemoteProtocolError(ErrorCode.BAD_FRAME, describe_validation_error(error)) from error
