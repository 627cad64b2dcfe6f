"""What a call of the client raises. Each error has a code of the closed list, and says whom to blame by its class."""

from protocol.errors import ErrorCode, SignerError


class SigningError(SignerError):
    """A call did not bring what it was made for.

    Attributes:
        code: of the closed list (`protocol.errors.ErrorCode`).
        detail: why, in words.
        job_id: of the job, to be found in the logs of the workers; None when none was made.
    """

    def __init__(self, code: ErrorCode, detail: str | None = None, *, job_id: str | None = None) -> None:
        super().__init__(code, detail)
        self.job_id = job_id

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later without anybody changing anything."""
        return self.code.retryable


class JobFailedError(SigningError):
    """The service has answered that the job failed. Nothing proves that: whoever owns the parent may say so."""


class AnswerRefusedError(SigningError):
    """The service has answered, and the answer is not what it claims to be: `birth_refused` or `signature_refused`.

    An honest service never causes it. Somebody should be woken.
    """


class NoAnswerError(SigningError):
    """No answer came in time, or the queues cannot be reached. The job may still be done, and its answer is dropped.

    To ask again does no harm: keys are made once, and the same job has the same signature.
    """


class BadRequestError(SigningError):
    """The caller's mistake, found before anything was sent: wrong arguments, or nothing to verify the answer with."""
