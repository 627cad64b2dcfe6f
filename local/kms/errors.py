"""The errors of KMS by their real names, and how they look on the wire (AWS JSON 1.1)."""

from typing import Final

_HTTP_BAD_REQUEST: Final = 400
_HTTP_STATUS: Final = {"KMSInternalException": 500, "DependencyTimeoutException": 503}
"""Everything else is 400 with KMS, throttling included."""


class KmsError(Exception):
    """A refusal that the caller sees.

    Args:
        code: the name of the exception in the KMS API reference, or of a common error.
        message: the text of it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The HTTP status that KMS sends it with."""
        return _HTTP_STATUS.get(self.code, _HTTP_BAD_REQUEST)


def validation_error(message: str) -> KmsError:
    """Return the error for input that breaks a rule of its field."""
    return KmsError("ValidationException", message)
