"""Settings of a client: a frozen value, made in code or read from a TOML file, complete before anything is opened."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from config.engine import SQS_MAX_BYTES
from protocol.attestation import AWS_NITRO_ROOT_G1, TrustRoot
from protocol.cbor import is_map
from protocol.errors import SignerError
from protocol.model import StrictModel, UserId, describe_validation_error
from workers.verify import check_public_key

AWS_ROOT_NAME: Final = "aws-nitro-g1"
"""How a file names the root of AWS's own hardware; anything else is the path of a PEM file."""

REPLY_QUEUE_PREFIX: Final = "nitro-signer-reply-"
_PCR_BYTES: Final = 48
_PUBLIC_KEY_BYTES: Final = 64
_MAX_CONFIG_BYTES: Final = 1024 * 1024

Seconds = Annotated[float, Field(gt=0, le=43_200)]


class ClientConfigError(ValueError):
    """The configuration cannot be used; one line that names the key and says what is allowed."""


class BirthTrust(StrictModel):
    """Whose word on the birth of a key is taken. Nothing of it has a default."""

    root: TrustRoot
    """The only root of attestation documents; in production `protocol.attestation.AWS_NITRO_ROOT_G1`."""

    generator_pcr0: Annotated[frozenset[bytes], Field(min_length=1, max_length=64, strict=False)]
    """The generator images in which keys may have been born, 48 bytes each."""

    @field_validator("generator_pcr0")
    @classmethod
    def _real_images(cls, images: frozenset[bytes]) -> frozenset[bytes]:
        for pcr0 in images:
            if len(pcr0) != _PCR_BYTES:
                raise ValueError(f"a PCR0 has {_PCR_BYTES} bytes")
            if not any(pcr0):
                raise ValueError("all zeros is what an enclave in debug mode shows; it proves nothing")
        return images


class ClientSettings(StrictModel):
    """Where the queues are, whom to trust, and how much may be under way. Durations are in seconds."""

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z0-9]+)+$")]
    """The AWS Region of the queues."""
    generate_queue_url: str
    """Where generate jobs go."""
    sign_queue_url: str
    """Where sign jobs go."""
    trust: BirthTrust | None = None
    """Needed to `generate`; a client that only signs with pinned keys does without."""

    pinned_keys: Annotated[dict[UserId, bytes], Field(default_factory=dict)]
    """Public keys (x || y, 64 bytes) that are trusted from elsewhere, by user id."""

    reply_queue_url: str | None = None
    """A queue that is this one client's own, when it may not make one; its name begins with `reply_queue_prefix`.
    Never a queue that others read: a client drops every reply that it does not know."""

    reply_queue_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")] = REPLY_QUEUE_PREFIX
    """The workers' `reply_to_allow` has to allow queues whose name begins so."""

    deadline_s: Seconds = 60.0
    """Of one call, waiting for a free place included."""
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """Jobs under way at once; further calls wait."""
    flush_ms: Annotated[float, Field(ge=0, le=1_000)] = 5.0
    """How long a job waits for others to share its send."""
    max_batch_bytes: Annotated[int, Field(ge=1_024, le=SQS_MAX_BYTES)] = SQS_MAX_BYTES
    """Of one send; lower it for servers with the old limit of 256 KiB."""
    pollers: Annotated[int, Field(ge=1, le=16)] = 2
    """Concurrent receives while jobs are under way; none otherwise."""
    wait_time_s: Annotated[int, Field(ge=1, le=20)] = 20
    """Long polling."""
    call_timeout_s: Seconds = 10.0
    """Of one call of SQS, beyond its long polling."""
    call_tries: Annotated[int, Field(ge=1, le=10)] = 4
    """How often a job is sent before its call fails."""

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        urls = [url for url in (self.generate_queue_url, self.sign_queue_url, self.reply_queue_url) if url is not None]
        if len(set(urls)) != len(urls):
            raise ValueError("generate_queue_url, sign_queue_url, reply_queue_url: different queues")
        for url in urls:
            if urlsplit(url).scheme not in {"http", "https"} or not _name(url):
                raise ValueError("generate_queue_url, sign_queue_url, reply_queue_url: the URL of a queue")
        if self.reply_queue_url is not None and not _is_own_name(_name(self.reply_queue_url), self.reply_queue_prefix):
            raise ValueError(f"reply_queue_url: a queue of this client's own, named {self.reply_queue_prefix}SOMETHING")
        for userid, key in self.pinned_keys.items():
            check_pinned(userid, key)
        return self


def check_pinned(userid: str, public_key: bytes) -> None:
    """Check that bytes can be the public key of a user.

    Raises:
        ValueError: not 64 bytes x || y of a point of the curve.
    """
    if len(public_key) != _PUBLIC_KEY_BYTES:
        raise ValueError(f"pinned key of {userid}: x || y, {_PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    try:
        check_public_key(public_key)
    except SignerError as error:
        raise ValueError(f"pinned key of {userid}: not a point of secp256k1") from error


def load_client_settings(path: Path) -> ClientSettings:
    """Read a TOML file. Bytes stand in it as hexadecimal digits; a PEM file is named relative to the file.

        region = "eu-central-1"
        generate_queue_url = "https://sqs.eu-central-1.amazonaws.com/111122223333/nitro-signer-generate"
        sign_queue_url = "https://sqs.eu-central-1.amazonaws.com/111122223333/nitro-signer-sign"
        [trust]
        root = "aws-nitro-g1"
        generator_pcr0 = ["96 hexadecimal digits"]
        [pinned_keys]
        u001 = "128 hexadecimal digits"

    Raises:
        ClientConfigError: names the file and the key, and says what is allowed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
        if len(data) > _MAX_CONFIG_BYTES:
            raise ClientConfigError(f"{path}: longer than {_MAX_CONFIG_BYTES} bytes")
        fields = tomllib.loads(data.decode())
        return ClientSettings.model_validate({**fields, **_decoded(fields, path.parent)})
    except OSError as error:
        raise ClientConfigError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise ClientConfigError(f"{path}: {describe_validation_error(error)}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ClientConfigError(f"{path}: not TOML: {error}") from error


def _decoded(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fields that stand otherwise in a file; what has another form is left for the model to refuse."""
    decoded: dict[str, Any] = {}
    trust, pinned = fields.get("trust"), fields.get("pinned_keys")
    if is_map(trust):
        decoded["trust"] = dict(trust)
        if isinstance(root := trust.get("root"), str):
            decoded["trust"]["root"] = _root(root, folder)
        if isinstance(images := trust.get("generator_pcr0"), list):
            decoded["trust"]["generator_pcr0"] = [_hex("trust.generator_pcr0", image) for image in images]
    if is_map(pinned):
        decoded["pinned_keys"] = {userid: _hex(f"pinned_keys.{userid}", key) for userid, key in pinned.items()}
    return decoded


def _root(name: str, folder: Path) -> TrustRoot:
    if name == AWS_ROOT_NAME:
        return AWS_NITRO_ROOT_G1
    path = folder / name
    try:
        return TrustRoot.from_pem(path.read_bytes())
    except OSError as error:
        raise ClientConfigError(f"trust.root: {AWS_ROOT_NAME} or a PEM file; {path}: {error.strerror}") from error
    except ValueError as error:
        raise ClientConfigError(f"trust.root: {path} is not a PEM file with one certificate") from error


def _hex(key: str, value: object) -> bytes:
    try:
        return bytes.fromhex(str(value))
    except ValueError as error:
        raise ClientConfigError(f"{key}: hexadecimal digits in pairs") from error


def _name(url: str) -> str:
    return urlsplit(url).path.rsplit("/", 1)[-1]


def _is_own_name(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and len(name) > len(prefix)
