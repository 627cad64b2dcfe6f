"""Verifies a birth certificate: a `BirthCertificate`, which anybody can write, becomes a `VerifiedBirth` or is refused.

What it proves: an enclave with one of the allowed PCR0 values, on hardware below the root, at the document's own time,
stated that it made this public key, and sealed it into the record with this hash. The user id in the statement is what
the parent asserted when it asked for the key.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum, unique
from typing import Final

from protocol.attestation import (
    ABSENT,
    AtOwnTime,
    AttestationError,
    DocumentPolicy,
    FailedCheck,
    TrustRoot,
    VerifiedDocument,
    parse_document,
)
from protocol.birth import BirthCertificate, birth_user_data
from protocol.statement import KeyStatement, StatementError

_MS: Final = 1000


@unique
class BirthCheck(StrEnum):
    """The checks of a birth certificate beyond those of its document (`FailedCheck`)."""

    CERTIFICATE = "certificate"
    """There is none, or the text is not in the form of one (`protocol.keyproof`)."""

    STATEMENT = "statement"
    """The certified bytes are no key statement in its canonical form."""

    USERID = "userid"
    """The key was made for another user id."""

    KEY = "key"
    """Another public key was made. (`FailedCheck.PUBLIC_KEY` is the document's field of that name.)"""

    RECORD = "record"
    """The stored key record is not the one that was certified (`protocol.keyproof`)."""


class BirthRefusedError(Exception):
    """A birth certificate was refused. `check` says by which check, the text says why."""

    def __init__(self, check: FailedCheck | BirthCheck, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.text = text


@dataclass(frozen=True, slots=True)
class VerifiedBirth:
    """The birth of a key, as an enclave's hardware has signed it. Only `verify_birth` makes one."""

    statement: KeyStatement
    sealed_sha256: bytes
    """Of the record that the key was sealed into (`protocol.keyrecord.sealed_record_sha256`)."""

    document: VerifiedDocument

    @property
    def module_id(self) -> str:
        """The enclave in which the key was made, `INSTANCE-encENCLAVE`."""
        return self.document.module_id

    @property
    def time(self) -> datetime:
        """When the key was made, UTC, by the hypervisor's clock."""
        return datetime.fromtimestamp(self.document.timestamp_ms / _MS, tz=UTC)


def verify_birth(
    certificate: BirthCertificate,
    *,
    root: TrustRoot,
    pcr0: Collection[bytes],
    userid: str | None,
    public_key: bytes | None,
) -> VerifiedBirth:
    """Verify a certificate at its document's own time.

    Args:
        certificate: as it came.
        root: the only root that is trusted.
        pcr0: the images whose word is taken, 48 bytes each; at least one.
        userid: for whom the key must have been made; None where the caller has no expectation and reads the statement.
        public_key: the key that must have been made, x || y, 64 bytes; None likewise.

    Raises:
        BirthRefusedError: names the first check that failed.
        ValueError: `pcr0` is empty, so no certificate could pass.
    """
    policy = DocumentPolicy(
        pcrs={0: pcr0},
        nonce=ABSENT,
        public_key=ABSENT,
        user_data=birth_user_data(certificate.statement, certificate.sealed_sha256),
    )
    try:
        document = parse_document(certificate.document).verify(root, policy, AtOwnTime())
        statement = KeyStatement.from_bytes(certificate.statement)
    except AttestationError as error:
        raise BirthRefusedError(error.check, error.text) from error
    except StatementError as error:
        raise BirthRefusedError(BirthCheck.STATEMENT, str(error)) from error
    if userid is not None and statement.userid != userid:
        raise BirthRefusedError(BirthCheck.USERID, f"the key was made for {statement.userid}, not for {userid}")
    if public_key is not None and statement.public_key != public_key:
        raise BirthRefusedError(BirthCheck.KEY, f"the public key {statement.public_key.hex()} was made, not this one")
    return VerifiedBirth(statement, certificate.sealed_sha256, document)
