"""The measured configuration of an enclave: a TOML file inside the image, hence in PCR0.

Everything that decides security stands here and nowhere else: role, KMS key, KMS host and the certificate authorities
that may speak for it, limits. The parent supplies credentials and jobs, never these.
"""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from protocol.address import Address, AddressError, parse_address
from protocol.framing import DEFAULT_MAX_FRAME_BYTES
from protocol.messages import MAX_BATCH_ITEMS, Role
from protocol.model import StrictModel, describe_validation_error
from protocol.statement import KmsKey, region_of_arn

MAX_CONFIG_BYTES: Final = 256 * 1024
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_MIN_FRAME_BYTES: Final = 64 * 1024 + 16 * 1024  # one sign item with the largest message, and its record


class EnclaveConfigError(ValueError):
    """The measured configuration cannot be used; one line that names the key."""


def _to_address(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("an address is a string, vsock://CID:PORT or unix:///path")  # noqa: TRY004 - pydantic's way
    try:
        return parse_address(value)
    except AddressError as error:
        raise ValueError(str(error)) from error


AddressField = Annotated[Address, BeforeValidator(_to_address)]


class LimitSettings(StrictModel):
    """What the parent may ask of one server process at once."""

    max_connections: Annotated[int, Field(ge=1, le=4096)] = 64
    """Open connections; a further one is refused with `overloaded`."""
    max_in_flight: Annotated[int, Field(ge=1, le=4096)] = 128
    """Requests at work; a further one is refused with `overloaded`."""
    max_frame_bytes: Annotated[int, Field(ge=_MIN_FRAME_BYTES, le=16 * DEFAULT_MAX_FRAME_BYTES)] = (
        DEFAULT_MAX_FRAME_BYTES
    )
    """Of one frame, in either direction."""
    max_batch_items: Annotated[int, Field(ge=1, le=MAX_BATCH_ITEMS)] = 100
    """Items of one request."""
    frame_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long a hello, or the rest of a frame that has begun, may take."""
    request_timeout_s: Annotated[float, Field(gt=0, le=300)] = 20.0
    """How long one request may work, its calls to KMS included."""


class AttestationSettings(StrictModel):
    """How long what KMS is shown is used again."""

    document_ttl_s: Annotated[float, Field(ge=1, le=240)] = 60.0
    """How old a document is accepted by KMS is not documented; its sample code makes one a call."""
    recipient_key_ttl_s: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    """How long one RSA key receives what KMS answers; then a new one is made in the background."""


class KeyCacheSettings(StrictModel):
    """Opened keys kept in the signer's memory. 0 entries switches the cache off."""

    max_entries: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """Opened keys at once; the one that was used longest ago goes first."""
    ttl_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """How long an opened key is kept; then KMS is asked again."""
    max_uses: Annotated[int, Field(ge=1, le=1_000_000_000)] = 100_000
    """Signatures with an opened key; then KMS is asked again."""


class ClockSettings(StrictModel):
    """How far the system clock may be from the attested time when it cannot be set."""

    max_drift_s: Annotated[float, Field(ge=0.1, le=240)] = 60.0
    """Beyond it the enclave takes no work: `clock_drift`."""
    check_interval_s: Annotated[float, Field(ge=1, le=86_400)] = 3600.0
    """How often the clock is compared with attested time, and set where that is permitted."""


class EnclaveConfig(StrictModel):
    """The whole configuration, complete and cross-checked."""

    role: Annotated[Role, Field(strict=False)]
    """The generator makes keys and never signs; the signer signs and never makes keys."""
    kms_key_arn: str
    """The KMS key that every data key belongs to. Pinned: an answer under another key is refused."""
    kms_host: str
    """The name that the certificate of KMS must carry; the port is always 443 for the proxy to map."""
    kms_ca_pem: Annotated[str, Field(min_length=1, max_length=MAX_CONFIG_BYTES)]
    """The only certificate authorities that may speak for `kms_host`, PEM."""
    kms_proxy: AddressField
    """Where the vsock-proxy to KMS listens on the parent."""
    listen: AddressField
    """Where the first server process listens."""
    processes: Annotated[int, Field(ge=0, le=64)] = 0
    """Server processes; 0 for one per vCPU. Process `i` listens on the i-th sibling of `listen`."""
    allow_debug: bool = False
    """Whether an enclave in debug mode (PCR0 all zero) may work. Never in production: its memory can be read."""
    limits: LimitSettings = LimitSettings()
    attestation: AttestationSettings = AttestationSettings()
    key_cache: KeyCacheSettings = KeyCacheSettings()
    clock: ClockSettings = ClockSettings()

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        try:
            KmsKey.from_arn(self.kms_key_arn)
        except ValueError as error:
            raise ValueError(f"kms_key_arn: {error}") from error
        if _HOST.fullmatch(self.kms_host) is None:
            raise ValueError("kms_host: a host name in lower case, without scheme and port")
        if "BEGIN CERTIFICATE" not in self.kms_ca_pem or not self.kms_ca_pem.isascii():
            raise ValueError("kms_ca_pem: at least one certificate in PEM form, and ASCII only, its comments too")
        if self.attestation.recipient_key_ttl_s < self.attestation.document_ttl_s:
            raise ValueError("attestation.recipient_key_ttl_s: at least attestation.document_ttl_s")
        return self

    @property
    def region(self) -> str:
        """The Region of the KMS key."""
        return region_of_arn(self.kms_key_arn)

    @property
    def kms_key(self) -> KmsKey:
        """The KMS key as key statements name it."""
        return KmsKey.from_arn(self.kms_key_arn)


@dataclass(frozen=True, slots=True)
class MeasuredConfig:
    """A configuration and the SHA-256 of the bytes that it was read from."""

    config: EnclaveConfig
    sha256: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the TOML bytes.

        Raises:
            EnclaveConfigError: names the key and says what is allowed.
        """
        if len(data) > MAX_CONFIG_BYTES:
            raise EnclaveConfigError(f"{len(data)} bytes of configuration; the limit is {MAX_CONFIG_BYTES}")
        try:
            config = EnclaveConfig.model_validate(tomllib.loads(data.decode()))
        except ValidationError as error:
            raise EnclaveConfigError(describe_validation_error(error)) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise EnclaveConfigError(f"not TOML: {error}") from error
        return cls(config, hashlib.sha256(data).digest())
