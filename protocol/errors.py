"""The closed set of error codes that cross the wire, stand in replies or come from our client, and their exceptions.

Two blames (after h11): `LocalProtocolError` is our own misuse and a bug; `RemoteProtocolError` is the peer's doing and
closes the connection. A failed request is neither: it is a `SignerError` with a code.
"""

from enum import StrEnum, unique


@unique
class ErrorCode(StrEnum):
    """Every way in which a request or a job can fail. The values are part of the wire and of the reply schema."""

    # What was asked
    BAD_REQUEST = "bad_request"
    WRONG_QUEUE = "wrong_queue"
    UNKNOWN_USER = "unknown_user"
    NOT_ALLOWED = "not_allowed"
    FROZEN = "frozen"
    RATE_LIMITED = "rate_limited"
    # What is stored
    RECORD_REFUSED = "record_refused"
    SIGNATURE_REFUSED = "signature_refused"
    BIRTH_REFUSED = "birth_refused"
    # What answers
    NOT_READY = "not_ready"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    ENCLAVE_UNAVAILABLE = "enclave_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    QUEUE_UNAVAILABLE = "queue_unavailable"
    NSM_FAILED = "nsm_failed"
    KMS_DENIED = "kms_denied"
    KMS_THROTTLED = "kms_throttled"
    KMS_UNAVAILABLE = "kms_unavailable"
    KMS_WRONG_KEY = "kms_wrong_key"
    KMS_BAD_CONTEXT = "kms_bad_context"
    KMS_BAD_ANSWER = "kms_bad_answer"
    INTERNAL = "internal"
    # The wire itself
    BAD_FRAME = "bad_frame"
    FRAME_TOO_LARGE = "frame_too_large"
    UNSUPPORTED_VERSION = "unsupported_version"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody changing it."""
        return self in _RETRYABLE

    @property
    def meaning(self) -> str:
        """One sentence for people; nothing in it comes from a request."""
        return _MEANINGS[self]


_RETRYABLE = frozenset(
    {
        ErrorCode.RATE_LIMITED,
        ErrorCode.NOT_READY,
        ErrorCode.OVERLOADED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.ENCLAVE_UNAVAILABLE,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.QUEUE_UNAVAILABLE,
        ErrorCode.NSM_FAILED,
        ErrorCode.KMS_DENIED,  # a policy change or new credentials cure it; SQS bounds the tries
        ErrorCode.KMS_THROTTLED,
        ErrorCode.KMS_UNAVAILABLE,
        ErrorCode.KMS_BAD_ANSWER,
        ErrorCode.INTERNAL,
    }
)

_MEANINGS = {
    ErrorCode.BAD_REQUEST: "the request is malformed",
    ErrorCode.WRONG_QUEUE: "the job is valid, but this queue does not take its type",
    ErrorCode.UNKNOWN_USER: "no key record exists for this user id",
    ErrorCode.NOT_ALLOWED: "the enclave's measured role or configuration does not allow this operation",
    ErrorCode.FROZEN: "signing is frozen for this user id",
    ErrorCode.RATE_LIMITED: "this user id has used up its rate of signatures",
    ErrorCode.RECORD_REFUSED: "the stored key record is not what the generator sealed for this user id",
    ErrorCode.SIGNATURE_REFUSED: "the signature does not verify with the stored public key",
    ErrorCode.BIRTH_REFUSED: "the birth certificate does not prove that this key was made for this user id",
    ErrorCode.NOT_READY: "the enclave cannot work yet",
    ErrorCode.OVERLOADED: "too much is in flight",
    ErrorCode.DEADLINE_EXCEEDED: "the time for this request ran out",
    ErrorCode.ENCLAVE_UNAVAILABLE: "no enclave answers",
    ErrorCode.STORE_UNAVAILABLE: "the key store does not answer",
    ErrorCode.QUEUE_UNAVAILABLE: "the queue does not answer",
    ErrorCode.NSM_FAILED: "the Nitro Secure Module refused or did not answer",
    ErrorCode.KMS_DENIED: "KMS denied the call: key policy, attestation or credentials",
    ErrorCode.KMS_THROTTLED: "KMS throttled the call",
    ErrorCode.KMS_UNAVAILABLE: "KMS could not be reached or failed",
    ErrorCode.KMS_WRONG_KEY: "the data key belongs to another KMS key than the measured one",
    ErrorCode.KMS_BAD_CONTEXT: "KMS refused the encrypted data key with this encryption context",
    ErrorCode.KMS_BAD_ANSWER: "the answer of KMS cannot be opened",
    ErrorCode.INTERNAL: "an unexpected failure inside the service",
    ErrorCode.BAD_FRAME: "the frame is malformed",
    ErrorCode.FRAME_TOO_LARGE: "the frame is longer than the limit",
    ErrorCode.UNSUPPORTED_VERSION: "the protocol versions do not overlap",
}


class SignerError(Exception):
    """A request or job failed with a code of the closed set.

    `detail` is for logs and for replies to the queue's own users (it may name a field of their job). It never crosses
    from the enclave, and never holds key material.
    """

    def __init__(self, code: ErrorCode, detail: str | None = None) -> None:
        super().__init__(f"{code}: {detail or code.meaning}")
        self.code = code
        self.detail = detail or code.meaning


class ProtocolError(Exception):
    """Base of the two blames."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for something that the protocol does not allow now: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol. The connection is closed after telling it the code."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
