"""Attestation documents of AWS Nitro Enclaves: `parse_document`, then `UnverifiedDocument.verify`.

No I/O, no clock, no default trust root: root, policy and time are arguments. `cose` knows the envelope, `chain` the
certificates, `document` the payload, `policy` the caller's demands, `roots` the roots of real hardware.
"""

from protocol.attestation.chain import TrustRoot
from protocol.attestation.document import UnverifiedDocument, VerifiedDocument, parse_document
from protocol.attestation.errors import AttestationError, FailedCheck
from protocol.attestation.policy import (
    ABSENT,
    ANYTHING,
    PRESENT,
    AtClock,
    AtOwnTime,
    DocumentPolicy,
    FieldRule,
    PcrRule,
    VerificationTime,
)
from protocol.attestation.roots import AWS_NITRO_ROOT_G1

__all__ = [
    "ABSENT",
    "ANYTHING",
    "AWS_NITRO_ROOT_G1",
    "PRESENT",
    "AtClock",
    "AtOwnTime",
    "AttestationError",
    "DocumentPolicy",
    "FailedCheck",
    "FieldRule",
    "PcrRule",
    "TrustRoot",
    "UnverifiedDocument",
    "VerificationTime",
    "VerifiedDocument",
    "parse_document",
]
