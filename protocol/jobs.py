"""Jobs as they come in the body of an SQS message, and the replies. The published JSON Schemas are made from these.

Jobs are JSON objects; unknown fields, duplicate keys, lone surrogates and non-finite numbers are refused, because two
readers could take them for two different jobs.
"""

import base64
import binascii
import json
from enum import StrEnum, unique
from typing import Annotated, Any, ClassVar, Final, Literal, NoReturn, Self, TypeAlias, TypeVar

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError, model_validator

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


class GenerateJob(StrictModel):
    """Makes a key for a user, or answers with the key that the user has."""

    worker: ClassVar[WorkerType] = "generate"
    """Whose queue takes it."""

    type: Literal["generate"]
    job_id: JobId
    userid: UserId
    reply_to: Annotated[str | None, Field(max_length=256)] = None


class SignRequest(StrictModel):
    """One signature: what is signed, whose key signs, and how the signature is written."""

    userid: UserId
    message: Annotated[str, Field(max_length=_MAX_MESSAGE_TEXT)]
    encoding: Annotated[MessageEncoding, Field(strict=False)] = MessageEncoding.UTF8
    digest: Annotated[Digest, Field(strict=False)] = Digest.SHA256
    scheme: Annotated[Scheme, Field(strict=False)] = Scheme.ECDSA
    format: Annotated[SignatureFormat, Field(strict=False)] = SignatureFormat.COMPACT
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
    job_id: JobId
    reply_to: Annotated[str | None, Field(max_length=256)] = None


class SignBatchItem(SignRequest):
    """One signature of a bulk job."""

    item_id: JobId | None = None
    """Comes back with the result; the place in the job does, too."""


class BadBatchItem(StrictModel):
    """What an item of a bulk job becomes when it is malformed, so that it fails alone."""

    item_id: JobId | None
    userid: UserId | None
    detail: str


def _item_or_problem(value: object) -> SignBatchItem | BadBatchItem:
    try:
        return SignBatchItem.model_validate(value)
    except ValidationError as error:
        fields = value if is_map(value) else {}
        return BadBatchItem(
            item_id=_known(fields, "item_id", _JOB_ID),
            userid=_known(fields, "userid", _USERID),
            detail=describe_validation_error(error),
        )


class SignBatchJob(StrictModel):
    """Signs many messages, with the keys of any users: a bulk job."""

    worker: ClassVar[WorkerType] = "sign"
    userid: ClassVar[None] = None
    """It is no one user's job."""

    type: Literal["sign_batch"]
    job_id: JobId
    items: Annotated[
        tuple[
            Annotated[
                SignBatchItem | BadBatchItem, PlainValidator(_item_or_problem, json_schema_input_type=SignBatchItem)
            ],
            ...,
        ],
        Field(min_length=1, max_length=MAX_JOB_ITEMS, strict=False),
    ]
    reply_to: Annotated[str | None, Field(max_length=256)] = None


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
        value: object = json.loads(
            body, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_int=_bounded_int
        )
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


class GenerateReply(StrictModel):
    """The key of a user: new, or the one that was there."""

    type: Literal["generate"] = "generate"
    job_id: str
    status: Literal["ok"] = "ok"
    userid: str
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


class SignReply(StrictModel):
    """A signature that the worker has verified."""

    type: Literal["sign"] = "sign"
    job_id: str
    status: Literal["ok"] = "ok"
    userid: str
    signature: str
    """Hexadecimal; the bytes depend on `format`."""
    publickey: str
    verified: Literal[True] = True


class ReplyError(StrictModel):
    """Why a job failed for good."""

    code: Annotated[ErrorCode, Field(strict=False)]
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: SignerError) -> Self:
        """Return how a reply tells an error of the closed set."""
        return cls(code=error.code, message=error.detail, retryable=error.code.retryable)


class BatchSignature(StrictModel):
    """A signature of a bulk job, verified."""

    index: int
    """Place of the item in its job, from 0."""
    item_id: str | None
    status: Literal["ok"] = "ok"
    userid: str
    signature: str
    """Hexadecimal; the bytes depend on `format`."""
    publickey: str
    verified: Literal[True] = True


class BatchFailure(StrictModel):
    """Why an item of a bulk job has no signature."""

    index: int
    item_id: str | None
    status: Literal["error"] = "error"
    userid: str | None
    error: ReplyError


BatchResult: TypeAlias = BatchSignature | BatchFailure


class SignBatchReply(StrictModel):
    """The results of a bulk job in the order of its items; in several numbered parts when they do not fit into one."""

    userid: ClassVar[None] = None

    type: Literal["sign_batch"] = "sign_batch"
    job_id: str
    status: Literal["ok"] = "ok"
    """Each result has a status of its own."""
    part: int = 1
    parts: int = 1
    results: Annotated[
        tuple[Annotated[BatchResult, Field(discriminator="status")], ...], Field(strict=False, max_length=MAX_JOB_ITEMS)
    ]


class ErrorReply(StrictModel):
    """The answer to a job that failed. `type` is `unknown` when the body did not tell."""

    type: JobType
    job_id: str
    status: Literal["error"] = "error"
    userid: str | None
    error: ReplyError

    @classmethod
    def of(cls, job_type: JobType, job_id: str, userid: str | None, error: SignerError) -> Self:
        """Return the reply for an error of the closed set."""
        return cls(type=job_type, job_id=job_id, userid=userid, error=ReplyError.of(error))


Reply = GenerateReply | SignReply | SignBatchReply | ErrorReply
REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
