"""Attestation documents of calls: verified under the pinned roots, at most five minutes old.

QEMU's, which nobody signs, only where a test in a virtual machine has asked for them.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from local.kms.envelope import EnvelopeRecipient
from local.kms.errors import KmsError, validation_error
from local.kms.qemu_documents import is_qemu_document, read_qemu_document
from protocol.attestation import (
    ANYTHING,
    PRESENT,
    AtClock,
    AttestationError,
    DocumentPolicy,
    FailedCheck,
    TrustRoot,
    UnverifiedDocument,
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

    def __init__(
        self, roots: Sequence[TrustRoot], clock: Clock, *, dangerous_accept_qemu_documents: bool = False
    ) -> None:
        self._roots = tuple(roots)
        self._clock = clock
        self._dangerous_accept_qemu_documents = dangerous_accept_qemu_documents
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
        at = AtClock(now_s=now_s, max_age_s=MAX_AGE_S, max_future_s=MAX_FUTURE_S)
        good_until_s = now_s + _CACHED_FOR_S
        found: VerifiedDocument | UnverifiedDocument
        if self._dangerous_accept_qemu_documents and is_qemu_document(document):
            found = _read_unsigned(document, at)
        else:
            found = verified = self._verify_under_roots(document, at)
            good_until_s = min(good_until_s, verified.certificates_not_after.timestamp())
        try:
            envelope = EnvelopeRecipient.from_spki(found.public_key or b"")
        except ValueError as error:
            raise validation_error(f"The public key of the attestation document is invalid: {error}") from error
        caller = AttestedCaller(found.module_id, found.pcrs, envelope)
        expires_at_s = min(good_until_s, found.timestamp_ms / _MS + MAX_AGE_S)
        self._cache.pop(document, None)
        self._cache[document] = _Cached(caller, expires_at_s)
        if len(self._cache) > _CACHED_DOCUMENTS:
            self._cache.popitem(last=False)
        return caller

    def _verify_under_roots(self, document: bytes, at: AtClock) -> VerifiedDocument:
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


def _read_unsigned(document: bytes, at: AtClock) -> UnverifiedDocument:
    try:
        return read_qemu_document(document, at)
    except AttestationError as error:
        raise _refusal(error) from error


def _refusal(error: AttestationError) -> KmsError:
    return validation_error(f"The attestation document is invalid: {error}")
