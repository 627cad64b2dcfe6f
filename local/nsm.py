"""A stand-in for the Nitro Secure Module: the same CBOR requests and responses, real signatures, a root of its own.

It is a transport for `enclave.nsm.Nsm`, so an enclave on a laptop runs the same codec as on hardware. Its documents
verify to its own authority's root only. Like the module: PCR0 to PCR15 are locked at start, the others can be extended
and locked; documents carry the locked ones; the payload map has an indefinite length, as current hardware writes it.
Unlike the module: each process has PCRs of its own.
"""

import hashlib
import random  # noqa: TID251 - seeded faults can be repeated; no secret comes from here
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from enclave.nsm_codec import MAX_RANDOM_BYTES, PCR_BYTES, PCR_COUNT, NsmErrorCode
from enclave.nsm_device import MAX_REQUEST_BYTES
from local.measurements import Measurements, measure_identity
from local.nitro_authority import DocumentSigner, NitroAuthority
from local.nitro_document import make_document
from protocol.attestation import TrustRoot
from protocol.attestation.document import MAX_OPTIONAL_FIELD_BYTES
from protocol.cbor import CborError, decode, encode, is_map
from protocol.clock import Clock

DEFAULT_INSTANCE_ID: Final = "i-0123456789abcdef0"
DEFAULT_ROLE_ARN: Final = "arn:aws:iam::000000000000:role/nitro-local"
_BOOT_LOCKED_PCRS: Final = 16
_RENEW_BEFORE_S: Final = 1200.0
"""A leaf is not used in its last 20 minutes, so that a document outlives its making."""

_Arguments: TypeAlias = Mapping[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NsmFaults:
    """What shall go wrong. Each request is hit with probability `rate`, in a sequence that `seed` repeats."""

    rate: float = 1.0
    delay_s: float = 0.0
    """How long a request that is hit blocks."""

    error: NsmErrorCode | None = None
    """The code with which a request that is hit is refused."""

    seed: int = 0


class _RefusedError(Exception):
    """The module answers with an error code."""

    def __init__(self, code: NsmErrorCode) -> None:
        super().__init__(code)
        self.code = code


class StandInNsm:
    """One stand-in module: an `NsmTransport` for one thread at a time.

    Args:
        authority: the root that signs its certificates.
        measurements: PCR0 to PCR2 of the enclave that it serves.
        clock: time of documents and certificates.
        instance_id: makes PCR4 and the first half of the module id.
        role_arn: the instance role; makes PCR3.
        faults: None for a healthy module.
    """

    def __init__(
        self,
        authority: NitroAuthority,
        measurements: Measurements,
        *,
        clock: Clock,
        instance_id: str = DEFAULT_INSTANCE_ID,
        role_arn: str = DEFAULT_ROLE_ARN,
        faults: NsmFaults | None = None,
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._faults = faults
        self._fault_sequence = random.Random(faults.seed if faults else 0)  # noqa: S311 - repeatable, not secret
        self._module_id = f"{instance_id}-enc{secrets.token_hex(8)}"
        self._pcrs = [bytes(PCR_BYTES)] * PCR_COUNT
        self._pcrs[0:3] = [measurements.pcr0, measurements.pcr1, measurements.pcr2]
        self._pcrs[3:5] = [measure_identity(role_arn), measure_identity(instance_id)]
        self._locked = set(range(_BOOT_LOCKED_PCRS))
        self._signer: DocumentSigner | None = None
        self._operations: Mapping[str, Callable[[_Arguments], dict[str, Any] | None]] = {
            "DescribeNSM": self._describe,
            "DescribePCR": self._describe_pcr,
            "ExtendPCR": self._extend_pcr,
            "LockPCR": self._lock_pcr,
            "LockPCRs": self._lock_pcrs,
            "GetRandom": self._get_random,
            "Attestation": self._attestation,
        }

    @property
    def trust_root(self) -> TrustRoot:
        """The root of this module's documents: its own authority's."""
        return self._authority.trust_root

    def __call__(self, request: bytes) -> bytes:
        """Return the response to a request."""
        try:
            self._apply_faults()
            name, body = self._serve(request)
        except _RefusedError as refused:
            return encode({"Error": refused.code.value})
        return encode(name if body is None else {name: body})

    def _serve(self, request: bytes) -> tuple[str, dict[str, Any] | None]:
        if len(request) > MAX_REQUEST_BYTES:
            raise _RefusedError(NsmErrorCode.INPUT_TOO_LARGE)
        try:
            value = decode(request)
        except CborError as error:
            raise _RefusedError(NsmErrorCode.INVALID_OPERATION) from error
        name, arguments = _split_request(value)
        operation = self._operations.get(name)
        if operation is None:
            raise _RefusedError(NsmErrorCode.INVALID_OPERATION)
        return name, operation(arguments)

    def _apply_faults(self) -> None:
        faults = self._faults
        if faults is None or self._fault_sequence.random() >= faults.rate:
            return
        time.sleep(faults.delay_s)
        if faults.error is not None:
            raise _RefusedError(faults.error)

    def _describe(self, _: _Arguments) -> dict[str, Any]:
        return {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": self._module_id,
            "max_pcrs": PCR_COUNT,
            "locked_pcrs": sorted(self._locked),
            "digest": "SHA384",
        }

    def _describe_pcr(self, arguments: _Arguments) -> dict[str, Any]:
        index = _pcr_index(arguments)
        return {"lock": index in self._locked, "data": self._pcrs[index]}

    def _extend_pcr(self, arguments: _Arguments) -> dict[str, Any]:
        index = self._writable_index(arguments)
        data = arguments.get("data")
        if not isinstance(data, bytes):
            raise _RefusedError(NsmErrorCode.INVALID_ARGUMENT)
        self._pcrs[index] = hashlib.sha384(self._pcrs[index] + data).digest()
        return {"data": self._pcrs[index]}

    def _lock_pcr(self, arguments: _Arguments) -> None:
        self._locked.add(self._writable_index(arguments))

    def _lock_pcrs(self, arguments: _Arguments) -> None:
        end = arguments.get("range")
        if type(end) is not int or not 0 <= end <= PCR_COUNT:
            raise _RefusedError(NsmErrorCode.INVALID_ARGUMENT)
        self._locked.update(range(end))

    def _get_random(self, _: _Arguments) -> dict[str, Any]:
        return {"random": secrets.token_bytes(MAX_RANDOM_BYTES)}

    def _attestation(self, arguments: _Arguments) -> dict[str, Any]:
        now_s = self._clock()
        document = make_document(
            self._current_signer(now_s),
            module_id=self._module_id,
            time_s=now_s,
            pcrs={index: self._pcrs[index] for index in sorted(self._locked)},
            public_key=_optional_field(arguments, "public_key"),
            user_data=_optional_field(arguments, "user_data"),
            nonce=_optional_field(arguments, "nonce"),
        )
        return {"document": document}

    def _current_signer(self, now_s: float) -> DocumentSigner:
        signer = self._signer
        # The lower bound is for a clock that is set back: a document must not be older than its certificate.
        if signer is None or not signer.not_before_s <= now_s < signer.not_after_s - _RENEW_BEFORE_S:
            signer = self._signer = self._authority.issue_signer(self._module_id, now_s=now_s)
        return signer

    def _writable_index(self, arguments: _Arguments) -> int:
        index = _pcr_index(arguments)
        if index in self._locked:
            raise _RefusedError(NsmErrorCode.READ_ONLY_INDEX)
        return index


def _split_request(value: Any) -> tuple[str, _Arguments]:
    if isinstance(value, str):
        return value, {}
    if is_map(value) and len(value) == 1:
        [(name, arguments)] = value.items()
        if isinstance(name, str) and is_map(arguments):
            return name, arguments
    raise _RefusedError(NsmErrorCode.INVALID_OPERATION)


def _pcr_index(arguments: _Arguments) -> int:
    index = arguments.get("index")
    if type(index) is not int:
        raise _RefusedError(NsmErrorCode.INVALID_ARGUMENT)
    if not 0 <= index < PCR_COUNT:
        raise _RefusedError(NsmErrorCode.INVALID_INDEX)
    return index


def _optional_field(arguments: _Arguments, name: str) -> bytes | None:
    value = arguments.get(name)
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise _RefusedError(NsmErrorCode.INVALID_ARGUMENT)
    if len(value) > MAX_OPTIONAL_FIELD_BYTES:
        raise _RefusedError(NsmErrorCode.INPUT_TOO_LARGE)
    return value
