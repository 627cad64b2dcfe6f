"""Attestation documents of calls: verified under the pinned roots, at most five minutes old."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from local.kms.envelope import EnvelopeRecipient
from local.kms.errors import KmsError, validation_error
from protocol.attestation import (
    ANYTHING,
    PRESENT,
    AtClock,
    AttestationError,
    DocumentPolicy,
    FailedCheck,
    TrustRoot,
    VerifiedDocument,
    parse_document,
)
from protocol.clock import Clock

MAX_AGE_S: Final = 300.0
"""A bound of our own: KMS does not document how old a document may be."""

MAX_FUTURE_S: Final = 60.0
_CACHED_DOCUMENTS: Final = 256
_CACHED_FOR_S: Final = 60.0
_MS: Final = 1000

_ANY_ENCLAVE: Final = DocumentPolicy(
    pcrs=ANYTHING, nonce=ANYTHING, public_key=PRESENT, user_data=ANYTHING, allow_debug=True
)
"""KMS takes every enclave's document, debug mode included: judging the PCRs is the policies' business."""


@dataclass(frozen=True, slots=True)
class AttestedCaller:
    """An enclave that a document speaks for."""

    module_id: str
    pcrs: Mapping[int, bytes]
    envelope: EnvelopeRecipient


@dataclass(frozen=True, slots=True)
class _Cached:
    caller: AttestedCaller
    expires_at_s: float


class DocumentVerifier:
    """Verifies documents. One that was verified is taken again for a short time if its bytes are exactly the same."""

    def __init__(self, roots: Sequence[TrustRoot], clock: Clock) -> None:
        self._roots = tuple(roots)
        self._clock = clock
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()

    def verify(self, document: bytes) -> AttestedCaller:
        """Return the enclave behind a document.

        Raises:
            KmsError: ValidationException; it says which check failed, which real KMS does not.
        """
        now_s = self._clock()
        cached = self._cache.get(document)
        if cached is not None and now_s < cached.expires_at_s:
            return cached.caller
        verified = self._verify_under_roots(document, now_s)
        try:
            envelope = EnvelopeRecipient.from_spki(verified.public_key or b"")
        except ValueError as error:
            raise validation_error(f"The public key of the attestation document is invalid: {error}") from error
        caller = AttestedCaller(verified.module_id, verified.pcrs, envelope)
        expires_at_s = min(
            now_s + _CACHED_FOR_S,
            verified.timestamp_ms / _MS + MAX_AGE_S,
            verified.certificates_not_after.timestamp(),
        )
        self._cache.pop(document, None)
        self._cache[document] = _Cached(caller, expires_at_s)
        if len(self._cache) > _CACHED_DOCUMENTS:
            self._cache.popitem(last=False)
        return caller

    def _verify_under_roots(self, document: bytes, now_s: float) -> VerifiedDocument:
        at = AtClock(now_s=now_s, max_age_s=MAX_AGE_S, max_future_s=MAX_FUTURE_S)
        try:
            unverified = parse_document(document)
            for root in self._roots[:-1]:
                try:
                    return unverified.verify(root, _ANY_ENCLAVE, at)
                except AttestationError as error:
                    if error.check is not FailedCheck.ROOT:
                        raise
            return unverified.verify(self._roots[-1], _ANY_ENCLAVE, at)
        except AttestationError as error:
            raise _refusal(error) from error


def _refusal(error: AttestationError) -> KmsError:
    return validation_error(f"The attestation document is invalid: {error}")
