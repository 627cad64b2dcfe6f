"""The attestation document of an AWS Nitro Enclave: parse it, then verify it into a new type.

Format: AWS Nitro Enclaves NSM API, docs/attestation_process.md. The payload is a CBOR map; hardware since August 2025
writes it with an indefinite length, so the signature is checked over the received bytes and nothing is encoded again.
"""

from collections.abc import KeysView, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from protocol.attestation.chain import TrustRoot, VerifiedChain, verify_chain
from protocol.attestation.cose import CoseSign1, parse_cose_sign1
from protocol.attestation.errors import AttestationError, FailedCheck
from protocol.attestation.policy import (
    ABSENT,
    ANYTHING,
    MAX_PCR_INDEX,
    PRESENT,
    AtClock,
    DocumentPolicy,
    FieldRule,
    PcrRule,
    VerificationTime,
)
from protocol.cbor import CborError, decode, is_list, is_map

MAX_OPTIONAL_FIELD_BYTES: Final = 1024
"""For public_key, user_data and nonce: the CDDL of attestation_process.md; hardware accepts all three at this size."""

MAX_CERTIFICATE_BYTES: Final = 1024
IMAGE_PCRS: Final = (0, 1, 2)
"""Whole image, kernel and boot, application: what debug mode leaves zero. PCR4 stays set, so a test for "every PCR is
zero" would never find a debug enclave."""

_REQUIRED_FIELDS: Final = frozenset({"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"})
_OPTIONAL_FIELDS: Final = frozenset({"public_key", "user_data", "nonce"})
_PCR_BYTES: Final = (32, 48, 64)
_MAX_DEPTH: Final = 3  # map > pcrs; one spare, so that a deeper value is reported as what it is
_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class VerifiedDocument:
    """What an enclave's hardware has signed. Only `UnverifiedDocument.verify` makes one."""

    module_id: str
    """Instance id and enclave id, as in `i-0123456789abcdef0-enc0123456789abcdef`."""

    timestamp_ms: int
    """When the document was made, in milliseconds since the Unix epoch, by the hypervisor's clock."""

    pcrs: Mapping[int, bytes]
    """The locked PCRs; 0 to 15 always."""

    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    is_debug: bool
    """True only where the policy allowed it."""

    root: TrustRoot
    certificates_not_before: datetime
    certificates_not_after: datetime


@dataclass(frozen=True, slots=True)
class UnverifiedDocument:
    """A well-formed document that anybody could have written. Trust nothing in it before `verify`."""

    data: bytes
    """The whole document as received."""

    module_id: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    _envelope: CoseSign1

    def verify(self, root: TrustRoot, policy: DocumentPolicy, at: VerificationTime) -> VerifiedDocument:
        """Check root, chain, signature, time, debug mode and every demand of the policy, in this order.

        Raises:
            AttestationError: names the first check that failed.
        """
        chain = verify_chain(root, self.certificate, self.cabundle)
        self._envelope.verify(chain.signer)
        self._check_time(chain, at)
        is_debug = self._is_debug()
        if is_debug and not policy.allow_debug:
            raise AttestationError(FailedCheck.DEBUG, "the enclave runs in debug mode (PCR0 to PCR2 are zero)")
        _check_pcrs(policy.pcrs, self.pcrs)
        _check_field(FailedCheck.NONCE, policy.nonce, self.nonce)
        _check_field(FailedCheck.PUBLIC_KEY, policy.public_key, self.public_key)
        _check_field(FailedCheck.USER_DATA, policy.user_data, self.user_data)
        return VerifiedDocument(
            module_id=self.module_id,
            timestamp_ms=self.timestamp_ms,
            pcrs=self.pcrs,
            public_key=self.public_key,
            user_data=self.user_data,
            nonce=self.nonce,
            is_debug=is_debug,
            root=root,
            certificates_not_before=chain.not_before,
            certificates_not_after=chain.not_after,
        )

    def _check_time(self, chain: VerifiedChain, at: VerificationTime) -> None:
        made_s = self.timestamp_ms / _MS
        if isinstance(at, AtClock):
            if made_s > at.now_s + at.max_future_s:
                raise AttestationError(FailedCheck.TIME, f"made {made_s - at.now_s:.3f} s in the future")
            if made_s < at.now_s - at.max_age_s:
                raise AttestationError(
                    FailedCheck.TIME, f"{at.now_s - made_s:.3f} s old; the limit is {at.max_age_s:g} s"
                )
            chain.check_valid_at(at.now_s)
        else:
            chain.check_valid_at(made_s)

    def _is_debug(self) -> bool:
        # One zero is enough: no image has a measurement of zero, not even an empty part of one.
        return any(index in self.pcrs and not any(self.pcrs[index]) for index in IMAGE_PCRS)


def parse_document(data: bytes) -> UnverifiedDocument:
    """Parse a document strictly.

    Raises:
        AttestationError: STRUCTURE, or KIND for a document that is not an enclave's.
    """
    envelope = parse_cose_sign1(data)
    try:
        payload = decode(envelope.payload, max_depth=_MAX_DEPTH, allow_indefinite=True)
    except CborError as error:
        raise _wrong(f"the payload is {error}") from error
    if not is_map(payload):
        raise _wrong("the payload is not a map")
    return _from_payload(data, envelope, payload)


def _from_payload(data: bytes, envelope: CoseSign1, payload: dict[Any, Any]) -> UnverifiedDocument:
    _check_names(payload.keys())
    if payload["digest"] != "SHA384":
        raise _wrong("digest is not SHA384")
    return UnverifiedDocument(
        data=bytes(data),
        module_id=_module_id(payload["module_id"]),
        timestamp_ms=_timestamp_ms(payload["timestamp"]),
        pcrs=_pcrs(payload["pcrs"]),
        certificate=_certificate("certificate", payload["certificate"]),
        cabundle=_cabundle(payload["cabundle"]),
        public_key=_optional_bytes(payload, "public_key"),
        user_data=_optional_bytes(payload, "user_data"),
        nonce=_optional_bytes(payload, "nonce"),
        _envelope=envelope,
    )


def _check_names(names: KeysView[Any]) -> None:
    if "nitrotpm_pcrs" in names:
        raise AttestationError(FailedCheck.KIND, "a NitroTPM document; it speaks of an instance, not of an enclave")
    if missing := _REQUIRED_FIELDS - names:
        raise _wrong(f"fields are missing: {', '.join(sorted(missing))}")
    if names - _REQUIRED_FIELDS - _OPTIONAL_FIELDS:
        # A field more would be another kind of document, about which we know nothing.
        raise _wrong("a field that no enclave's document has")


def _module_id(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong("module_id is not a text")
    if "-enc" not in value:
        raise AttestationError(FailedCheck.KIND, "module_id does not name an enclave (i-...-enc...)")
    return value


def _timestamp_ms(value: Any) -> int:
    if type(value) is not int or value <= 0:  # not isinstance: a CBOR boolean is an int to Python
        raise _wrong("timestamp is not a positive number of milliseconds")
    return value


def _pcrs(value: Any) -> Mapping[int, bytes]:
    if not is_map(value) or not 1 <= len(value) <= MAX_PCR_INDEX + 1:
        raise _wrong(f"pcrs is not a map of 1 to {MAX_PCR_INDEX + 1} entries")
    for index, digest in value.items():
        if type(index) is not int or not 0 <= index <= MAX_PCR_INDEX:
            raise _wrong(f"a PCR index is not a number from 0 to {MAX_PCR_INDEX}")
        if not isinstance(digest, bytes) or len(digest) not in _PCR_BYTES:
            raise _wrong(f"PCR{index} does not have the length of a digest")
    if missing := [index for index in IMAGE_PCRS if index not in value]:
        # The hardware locks these before the enclave runs, and debug mode could not be seen without them.
        raise _wrong(f"PCR{missing[0]} is missing")
    return MappingProxyType(value)


def _certificate(name: str, value: Any) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= MAX_CERTIFICATE_BYTES:
        raise _wrong(f"{name} does not have 1 to {MAX_CERTIFICATE_BYTES} bytes")
    return value


def _cabundle(value: Any) -> tuple[bytes, ...]:
    if not is_list(value) or not value:
        raise _wrong("cabundle is not a list of certificates")
    return tuple(_certificate("a certificate of cabundle", der) for der in value)


def _optional_bytes(payload: dict[Any, Any], name: str) -> bytes | None:
    value = payload.get(name)
    if value is None:
        return None
    # Hardware of 2023 wrote h'' for an empty public_key, although the CDDL asks for at least one byte.
    if not isinstance(value, bytes) or len(value) > MAX_OPTIONAL_FIELD_BYTES:
        raise _wrong(f"{name} is neither null nor at most {MAX_OPTIONAL_FIELD_BYTES} bytes")
    return value


def _check_pcrs(rule: PcrRule, pcrs: Mapping[int, bytes]) -> None:
    if rule is ANYTHING:
        return
    for index, allowed in rule.items():
        value = pcrs.get(index)
        if value is None:
            raise AttestationError(FailedCheck.PCR, f"PCR{index} is not in the document")
        if value not in allowed:
            raise AttestationError(FailedCheck.PCR, f"PCR{index} is {value.hex()}, which is not allowed")


def _check_field(check: FailedCheck, rule: FieldRule, value: bytes | None) -> None:
    if rule is ANYTHING:
        return
    if rule is ABSENT:
        if value is not None:
            raise AttestationError(check, f"{check} is there and must not be")
    elif rule is PRESENT:
        if not value:
            raise AttestationError(check, f"{check} is absent or empty")
    elif value != rule:
        raise AttestationError(check, f"{check} is not the expected one")


def _wrong(text: str) -> AttestationError:
    return AttestationError(FailedCheck.STRUCTURE, text)
