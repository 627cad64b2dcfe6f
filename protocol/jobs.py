"""Jobs as they come in the body of an SQS message, and the replies. The published JSON Schemas are made from these.

Jobs are JSON objects; unknown fields, duplicate keys, lone surrogates and non-finite numbers are refused, because two
readers could take them for two different jobs.
"""

import base64
import binascii
import json
from enum import StrEnum, unique
from typing import Annotated, Any, ClassVar, Final, Literal, NoReturn, Self, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WrapValidator, model_validator

from protocol.cbor import is_map
from protocol.errors import ErrorCode, SignerError
from protocol.forms import check_form
from protocol.messages import MAX_BATCH_ITEMS, MAX_MESSAGE_BYTES, Digest, Scheme, SignatureFormat
from protocol.model import StrictModel, UserId, describe_validation_error

JobId = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
"""Printable ASCII without spaces: what SQS takes as a deduplication id (SQS API, SendMessage)."""

JobType: TypeAlias = Literal["generate", "sign", "sign_batch", "unknown"]
WorkerType: TypeAlias = Literal["generate", "sign"]

MAX_JOB_ITEMS: Final = MAX_BATCH_ITEMS
"""Signatures of one bulk job."""

_MAX_MESSAGE_TEXT = 2 * MAX_MESSAGE_BYTES + 2
"""Hex is the longest encoding: two digits a byte, and `0x`."""

_MAX_DIGITS = 19
"""No job has a number yet; a signed 64-bit one is as much as other readers of JSON take."""

_JOB_TYPE: TypeAdapter[Literal["generate", "sign", "sign_batch"]] = TypeAdapter(
    Literal["generate", "sign", "sign_batch"]
)
_JOB_ID: TypeAdapter[str] = TypeAdapter(JobId)
_USERID: TypeAdapter[str] = TypeAdapter(UserId)
_Known = TypeVar("_Known")


@unique
class MessageEncoding(StrEnum):
    """How `message` stands in the JSON text."""

    UTF8 = "utf8"
    HEX = "hex"
    BASE64 = "base64"


class Published(StrictModel):
    """A model whose JSON Schema is published, with the texts below its fields as descriptions."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class GenerateJob(Published):
    """Makes a key for a user, or answers with the key that the user has."""

    worker: ClassVar[WorkerType] = "generate"
    """Whose queue takes it."""

    type: Literal["generate"]
    """Which kind of job."""
    job_id: JobId
    """Comes back in the reply; the SQS message id unless given."""
    userid: UserId
    """Whose key. It shows in CloudTrail and in logs: use an opaque one."""
    reply_to: Annotated[str | None, Field(max_length=256)] = None
    """URL of another reply queue, which the workers' settings must allow."""


class SignRequest(Published):
    """One signature: what is signed, whose key signs, and how the signature is written."""

    userid: UserId
    """Whose key signs."""
    message: Annotated[str, Field(max_length=_MAX_MESSAGE_TEXT)]
    """What is signed, in `encoding`; at most 64 KiB once decoded."""
    encoding: Annotated[MessageEncoding, Field(strict=False)] = MessageEncoding.UTF8
    """How `message` stands in the JSON text."""
    digest: Annotated[Digest, Field(strict=False)] = Digest.SHA256
    """How the message becomes the 32 bytes that are signed; with `none` it is these 32 bytes."""
    scheme: Annotated[Scheme, Field(strict=False)] = Scheme.ECDSA
    """`schnorr` is BIP-340; it goes with the digests sha256 and none, and the format compact."""
    format: Annotated[SignatureFormat, Field(strict=False)] = SignatureFormat.COMPACT
    """r || s (64 bytes), DER, or r || s || v (65 bytes, v is 0 or 1)."""
    authorization: None = None
    """Reserved for the client's own signature over the job; not accepted yet."""

    @model_validator(mode="after")
    def _form_exists(self) -> Self:
        try:
            check_form(self.message_bytes, self.digest, self.scheme, self.format)
        except SignerError as error:
            raise ValueError(error.detail) from error
        return self

    @property
    def message_bytes(self) -> bytes:
        """The decoded message.

        Raises:
            ValueError: not in the stated encoding (never after the model was made).
        """
        if self.encoding is MessageEncoding.UTF8:
            return self.message.encode()
        if self.encoding is MessageEncoding.HEX:
            try:
                return binascii.unhexlify(self.message.removeprefix("0x"))
            except ValueError as error:
                raise ValueError("message: not hexadecimal") from error
        try:
            return base64.b64decode(self.message, validate=True)
        except ValueError as error:
            raise ValueError("message: not base64") from error


class SignJob(SignRequest):
    """Signs a message with the key of a user."""

    worker: ClassVar[WorkerType] = "sign"

    type: Literal["sign"]
    """Which kind of job."""
    job_id: JobId
    """Comes back in the reply; the SQS message id unless given."""
    reply_to: Annotated[str | None, Field(max_length=256)] = None
    """URL of another reply queue, which the workers' settings must allow."""


class SignBatchItem(SignRequest):
    """One signature of a bulk job."""

    item_id: JobId | None = None
    """Comes back with the result; the place in the job does, too."""


class BadBatchItem(Published):
    """What an item of a bulk job becomes when it is malformed, so that it fails alone."""

    item_id: JobId | None
    userid: UserId | None
    detail: str


def _item_or_problem(value: object, _: object) -> SignBatchItem | BadBatchItem:
    try:
        return SignBatchItem.model_validate(value)
    except ValidationError as error:
        fields = value if is_map(value) else {}
        return BadBatchItem(
            item_id=_known(fields, "item_id", _JOB_ID),
            userid=_known(fields, "userid", _USERID),
            detail=describe_validation_error(error),
        )


class SignBatchJob(Published):
    """Signs many messages, with the keys of any users: a bulk job."""

    worker: ClassVar[WorkerType] = "sign"
    userid: ClassVar[None] = None
    """It is no one user's job."""

    type: Literal["sign_batch"]
    """Which kind of job."""
    job_id: JobId
    """Comes back in the reply; the SQS message id unless given."""
    items: Annotated[
        tuple[
            Annotated[
                SignBatchItem | BadBatchItem, WrapValidator(_item_or_problem, json_schema_input_type=SignBatchItem)
            ],
            ...,
        ],
        Field(min_length=1, max_length=MAX_JOB_ITEMS, strict=False),
    ]
    """The signatures that are wanted, 1 to 1,000; a malformed one fails alone."""
    reply_to: Annotated[str | None, Field(max_length=256)] = None
    """URL of another reply queue, which the workers' settings must allow."""


Job = GenerateJob | SignJob | SignBatchJob
JOB: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="type")])


class JobRefusedError(Exception):
    """A body that is no job; knows what an error reply needs."""

    def __init__(self, job_id: str, job_type: JobType, userid: str | None, error: SignerError) -> None:
        super().__init__(str(error))
        self.job_id = job_id
        self.job_type: JobType = job_type
        self.userid = userid
        self.error = error


def parse_job(body: str, message_id: str) -> Job:
    """Read the body of an SQS message. A job without `job_id` takes the message id.

    Raises:
        JobRefusedError: with as much of `job_id`, `type` and `userid` as can be known, and `bad_request`.
    """
    fields: dict[str, Any] = {}
    try:
        fields = _parse_object(body)
        return JOB.validate_python({"job_id": message_id, **fields})
    except ValidationError as error:
        detail = describe_validation_error(error)
    except ValueError as error:
        detail = str(error)
    known_type = _known(fields, "type", _JOB_TYPE)
    raise JobRefusedError(
        job_id=_known(fields, "job_id", _JOB_ID) or message_id,
        job_type=known_type or "unknown",
        userid=_known(fields, "userid", _USERID),
        error=SignerError(ErrorCode.BAD_REQUEST, detail),
    )


def _known(fields: dict[str, Any], name: str, kind: TypeAdapter[_Known]) -> _Known | None:
    try:
        return kind.validate_python(fields.get(name))
    except ValidationError:
        return None


def _parse_object(body: str) -> dict[str, Any]:
    try:
        value: object = _DECODE(body)
        if not is_map(value):
            raise ValueError("the body is not a JSON object")
        # A surrogate may come as it is or as an escape; only the second needs the value to be looked at.
        text = json.dumps(value, ensure_ascii=False) if "\\u" in body else body
        text.encode()
    except RecursionError as error:
        raise ValueError("the body is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except UnicodeEncodeError as error:
        raise ValueError("the body has a lone surrogate, which is not text") from error
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice in the body")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number in the body has more than {_MAX_DIGITS} digits")
    return int(digits)


_DECODE: Final = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_int=_bounded_int
).decode


class GenerateReply(Published):
    """The key of a user: new, or the one that was there."""

    type: Literal["generate"] = "generate"
    """Of the job."""
    job_id: str
    """Of the job, or the SQS message id if it had none."""
    status: Literal["ok"] = "ok"
    """The job was done."""
    userid: str
    """Whose key."""
    publickey: str
    """x||y, 128 hexadecimal digits."""
    publickey_compressed: str
    """SEC 1 compressed point, 66 hexadecimal digits."""
    ethereum_address: str
    """With the checksum of EIP-55."""
    created: bool
    """Whether this job made the key; False when the user id had one before."""
    birth_certificate: str
    """Base64, see `protocol.birth`."""


class SignReply(Published):
    """A signature that the worker has verified."""

    type: Literal["sign"] = "sign"
    """Of the job."""
    job_id: str
    """Of the job, or the SQS message id if it had none."""
    status: Literal["ok"] = "ok"
    """The job was done."""
    userid: str
    """Whose key."""
    signature: str
    """Hexadecimal; the bytes depend on `format`."""
    publickey: str
    """x||y, 128 hexadecimal digits. Verify with a key that you keep, not with this one."""
    verified: Literal[True] = True
    """The worker has verified the signature with the stored key. It is the worker's word."""


class ReplyError(Published):
    """Why a job failed for good."""

    code: Annotated[ErrorCode, Field(strict=False)]
    """Of the closed list."""
    message: str
    """One line for people; it may name a field of the job."""
    retryable: bool
    """Whether the same job may succeed later without anybody changing it."""

    @classmethod
    def of(cls, error: SignerError) -> Self:
        """Return how a reply tells an error of the closed set."""
        return cls(code=error.code, message=error.detail, retryable=error.code.retryable)


class BatchSignature(Published):
    """A signature of a bulk job, verified."""

    index: int
    """Place of the item in its job, from 0."""
    item_id: str | None
    """As in the job."""
    status: Literal["ok"] = "ok"
    """This item was done."""
    userid: str
    """Whose key."""
    signature: str
    """Hexadecimal; the bytes depend on `format`."""
    publickey: str
    """x||y, 128 hexadecimal digits. Verify with a key that you keep, not with this one."""
    verified: Literal[True] = True
    """The worker has verified the signature with the stored key. It is the worker's word."""


class BatchFailure(Published):
    """Why an item of a bulk job has no signature."""

    index: int
    """Place of the item in its job, from 0."""
    item_id: str | None
    """As in the job, if it could be read."""
    status: Literal["error"] = "error"
    """This item failed."""
    userid: str | None
    """As in the job, if it could be read."""
    error: ReplyError
    """Why."""


BatchResult: TypeAlias = BatchSignature | BatchFailure


class SignBatchReply(Published):
    """The results of a bulk job in the order of its items; in several numbered parts when they do not fit into one."""

    userid: ClassVar[None] = None

    type: Literal["sign_batch"] = "sign_batch"
    """Of the job."""
    job_id: str
    """Of the job, or the SQS message id if it had none."""
    status: Literal["ok"] = "ok"
    """Each result has a status of its own."""
    part: int = 1
    """Number of this part, from 1."""
    parts: int = 1
    """How many parts the reply has."""
    results: Annotated[
        tuple[Annotated[BatchResult, Field(discriminator="status")], ...], Field(strict=False, max_length=MAX_JOB_ITEMS)
    ]
    """Of the items of this part, in their order."""


class ErrorReply(Published):
    """The answer to a job that failed. `type` is `unknown` when the body did not tell."""

    type: JobType
    """Of the job; `unknown` when the body did not tell."""
    job_id: str
    """Of the job if it could be read, else the SQS message id."""
    status: Literal["error"] = "error"
    """The job failed for good."""
    userid: str | None
    """As in the job, if it could be read."""
    error: ReplyError
    """Why."""

    @classmethod
    def of(cls, job_type: JobType, job_id: str, userid: str | None, error: SignerError) -> Self:
        """Return the reply for an error of the closed set."""
        return cls(type=job_type, job_id=job_id, userid=userid, error=ReplyError.of(error))


Reply = GenerateReply | SignReply | SignBatchReply | ErrorReply
REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
