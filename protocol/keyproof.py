"""The key proof: a file from which anybody can tell, offline, where a key was born. One JSON object a line, one a key.

    {"format": "nitro-signer/key-proof/1", "userid": "u001", "publickey": "128 hexadecimal digits, x || y",
     "birth_certificate": "base64, see protocol.birth; null when none is stored",
     "stored_sha256": "of the sealed record in the key table, 64 hexadecimal digits"}

It holds nothing secret, not even the sealed key. `stored_sha256` is what the exporter says of its table; all else that
counts is in the certificate.
"""

import json
from collections.abc import Collection
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError

from protocol.attestation import TrustRoot
from protocol.birth import BirthCertificate, BirthCertificateError
from protocol.birth_verification import BirthCheck, BirthRefusedError, VerifiedBirth, verify_birth
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from protocol.model import StrictModel, UserId, describe_validation_error

PROOF_FORMAT: Final = "nitro-signer/key-proof/1"
MAX_PROOF_BYTES: Final = 64 * 1024
"""Of one line. A certificate has at most 34 KB, in base64 45 KB; real ones have under 10 KB."""

_MAX_CERTIFICATE_CHARACTERS: Final = 60 * 1024


class KeyProofError(ValueError):
    """The line is not a key proof."""


class KeyProof(StrictModel):
    """What an exporter says of one key; nothing is verified yet."""

    format: Literal["nitro-signer/key-proof/1"] = PROOF_FORMAT
    userid: UserId
    publickey: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    birth_certificate: Annotated[
        str | None, Field(max_length=_MAX_CERTIFICATE_CHARACTERS, pattern=r"^[A-Za-z0-9+/]*={0,2}$")
    ]
    stored_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @classmethod
    def of(cls, record: KeyRecord, birth_certificate: str | None) -> Self:
        """Make the proof of a stored key.

        Raises:
            KeyProofError: what stands for a certificate is not base64, or too long.
        """
        try:
            return cls(
                userid=record.userid,
                publickey=record.public_key.hex(),
                birth_certificate=birth_certificate,
                stored_sha256=sealed_record_sha256(record.record).hex(),
            )
        except ValidationError as error:
            raise KeyProofError(describe_validation_error(error)) from error

    def to_line(self) -> bytes:
        """Return the line with its end."""
        return self.model_dump_json().encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read a line, with or without its end.

        Raises:
            KeyProofError: too long, not a JSON object, a key that stands twice, a wrong or unknown field.
        """
        if len(line) > MAX_PROOF_BYTES:
            raise KeyProofError(f"a line of more than {MAX_PROOF_BYTES} bytes")
        try:
            return cls.model_validate(json.loads(line.decode(), object_pairs_hook=_without_duplicates))
        except ValidationError as error:
            raise KeyProofError(describe_validation_error(error)) from error
        except RecursionError as error:
            raise KeyProofError("nested too deeply") from error
        except ValueError as error:  # not UTF-8, not JSON, or a duplicate
            raise KeyProofError(f"not a JSON object in UTF-8: {error}") from error

    @property
    def stored_record_is_certified(self) -> bool | None:
        """Whether the exporter's record has the hash that the (unverified) certificate names; None without one."""
        try:
            return self._certificate().sealed_sha256.hex() == self.stored_sha256
        except BirthRefusedError:
            return None

    def verify(self, *, root: TrustRoot, pcr0: Collection[bytes]) -> VerifiedBirth:
        """Verify the birth of this key, for this user id, in this record.

        Raises:
            BirthRefusedError: names the first check that failed.
            ValueError: `pcr0` is empty, so no proof could pass.
        """
        born = verify_birth(
            self._certificate(), root=root, pcr0=pcr0, userid=self.userid, public_key=bytes.fromhex(self.publickey)
        )
        if born.sealed_sha256.hex() != self.stored_sha256:
            raise BirthRefusedError(BirthCheck.RECORD, "the stored key record is not the one that was certified")
        return born

    def _certificate(self) -> BirthCertificate:
        if self.birth_certificate is None:
            raise BirthRefusedError(BirthCheck.CERTIFICATE, "no birth certificate is stored for this key")
        try:
            return BirthCertificate.from_base64(self.birth_certificate)
        except BirthCertificateError as error:
            raise BirthRefusedError(BirthCheck.CERTIFICATE, str(error)) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice")  # two readers could see two different keys
    return fields
