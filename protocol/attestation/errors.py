"""Why a document was refused: a closed set of checks, and the exception that carries one of them."""

from enum import StrEnum, unique
from typing import Final


@unique
class FailedCheck(StrEnum):
    """The check that an attestation document did not pass, in the order in which the checks are made."""

    STRUCTURE = "structure"
    """Not a strict COSE_Sign1, or a field of the payload breaks its rule."""

    KIND = "kind"
    """A document of another product on the same root: NitroTPM, or anything else that is no enclave."""

    ROOT = "root"
    """The bundle does not start at the pinned root certificate."""

    CHAIN = "chain"
    """The certificates do not lead from the root to the signer in the one allowed way."""

    SIGNATURE = "signature"
    """The signature over the payload is not the leaf certificate's."""

    TIME = "time"
    """A certificate is not valid at the time of the verification, or the document is too old or from the future."""

    DEBUG = "debug"
    """The enclave runs in debug mode: its console is readable and its measurements are zero."""

    PCR = "pcr"
    NONCE = "nonce"
    PUBLIC_KEY = "public_key"
    USER_DATA = "user_data"


_MAX_TEXT: Final = 300


class AttestationError(Exception):
    """An attestation document was refused. `check` says by which check, the text says why.

    A library's words in the text may quote the document, for instance a certificate's subject, and the text goes to
    terminals, logs and answers: so it is bounded and printable.
    """

    def __init__(self, check: FailedCheck, text: str) -> None:
        self.text = ascii(text[:_MAX_TEXT])[1:-1] if len(text) > _MAX_TEXT or not text.isprintable() else text
        super().__init__(f"{check}: {self.text}")
        self.check = check
