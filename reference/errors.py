"""The closed list of error codes."""

from protocol.errors import ErrorCode
from reference.markdown import code, table

_INTRODUCTION = """\
# Error codes

Every way in which a job, a call of our client or a request to an enclave can fail. The list is closed: a reply has no
other code. *Retryable* means that the same job may succeed later without anybody changing it; the workers try such jobs
again by themselves until the queue's limit, so a reply with a retryable code says that they have given up.

"""


def errors_page() -> str:
    """Return the page."""
    rows = ((code(each.value), "yes" if each.retryable else "no", each.meaning) for each in ErrorCode)
    return _INTRODUCTION + table(("code", "retryable", "meaning"), rows)
