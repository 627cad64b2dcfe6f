"""Settings of the parent's workers: one TOML file, and `NITRO_SIGNER_*` variables that override it.

The variable of a nested key joins the names with two underscores: `NITRO_SIGNER_SIGN__ENGINE__SLOTS=200`. Its value is
read as JSON where it is JSON (numbers, true, false, arrays), else as text. AWS's own variables (`AWS_REGION`,
`AWS_ENDPOINT_URL_SQS`, `AWS_PROFILE` and so on) work as in every AWS tool.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from config.engine import EngineSettings
from config.logging import LogLevel
from protocol.address import CID_ANY, Address, AddressError, VsockAddress, parse_address
from protocol.cbor import is_map
from protocol.framing import DEFAULT_MAX_FRAME_BYTES
from protocol.messages import MAX_BATCH_ITEMS
from protocol.model import StrictModel, describe_validation_error
from protocol.statement import KmsKey

ENV_PREFIX: Final = "NITRO_SIGNER_"
CONFIG_VARIABLE: Final = "NITRO_SIGNER_CONFIG"
"""Names the file for commands without `--config`."""

CLIENT_VARIABLE: Final = "NITRO_SIGNER_CLIENT"
"""Names the file with the settings of a client; nothing of the workers."""

MAX_CONFIG_BYTES: Final = 1024 * 1024

MIN_FRAME_BYTES: Final = 80 * 1024
"""One sign item with the largest message, and its record: a lower limit would refuse valid jobs."""

WorkerRole = Literal["generate", "sign"]

Milliseconds = Annotated[float, Field(ge=0, le=1_000)]
CallSeconds = Annotated[float, Field(gt=0, le=300)]


class WorkerConfigError(ValueError):
    """The configuration cannot be used; one line that names the key and says what is allowed."""


def _to_address(value: object) -> Address:
    if not isinstance(value, str):
        raise ValueError("an address is a string, vsock://CID:PORT or unix:///path")  # noqa: TRY004 - pydantic's way
    try:
        address = parse_address(value)
    except AddressError as error:
        raise ValueError(str(error)) from error
    if isinstance(address, VsockAddress) and address.cid == CID_ANY:
        raise ValueError("to connect to an enclave its CID is needed, as in vsock://16:5000")
    return address


EnclaveAddress = Annotated[Address, BeforeValidator(_to_address)]


class StoreSettings(StrictModel):
    """The key store in DynamoDB."""

    table: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")] = "UserToken"
    """Key records, by user id."""
    birth_table: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")] = "UserTokenBirth"
    """Birth certificates, by public key."""
    call_timeout_s: CallSeconds = 5.0
    """Of one try of one call."""
    call_tries: Annotated[int, Field(ge=1, le=10)] = 4
    """How often a call is tried before its job fails for now."""
    collect_ms: Milliseconds = 2.0
    """How long a read waits for others to share its call."""
    cache_records: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Key records kept in memory, about 2 KB each; they never change. 0 reads each of them each time."""

    @model_validator(mode="after")
    def _two_tables(self) -> Self:
        if self.table == self.birth_table:
            raise ValueError("birth_table: another table than table")
        return self


class EnclaveClientSettings(StrictModel):
    """How the enclaves are talked to."""

    connect_timeout_s: CallSeconds = 5.0
    """Until a connection is open."""
    call_timeout_s: CallSeconds = 25.0
    """Of one batch. An enclave gives up its own work after 20 s unless its image says otherwise."""
    reconnect_cap_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    """Longest pause between two tries to connect."""
    check_interval_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    """How often each enclave process is asked how it is, and the AWS credentials are looked at for renewal."""
    collect_ms: Milliseconds = 1.0
    """How long an item waits for others to share its frame."""
    max_frame_bytes: Annotated[int, Field(ge=MIN_FRAME_BYTES, le=16 * DEFAULT_MAX_FRAME_BYTES)] = (
        DEFAULT_MAX_FRAME_BYTES
    )
    """Of both directions; the enclave's own limit counts when it is lower."""
    max_batch_items: Annotated[int, Field(ge=1, le=MAX_BATCH_ITEMS)] = 100
    """The same."""


class BrakeSettings(StrictModel):
    """How operators and limits hold signing back: see `workers.brakes`."""

    table: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")] | None = None
    """The table of the pause switch and of frozen users, partition key `userid`; None has neither."""
    pause_check_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """How often the switch is read."""
    max_blind_s: Annotated[float, Field(ge=1, le=3_600)] = 30.0
    """A switch that could not be read for so long counts as pulled."""
    freeze_cache_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    """How long it may take until a freeze or its end is seen."""
    signatures_per_s: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Of one user, in each worker process, over time; None has no limit. A job over it is tried again later."""
    signature_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Signatures of one user at once, after a pause."""


class RoleSettings(StrictModel):
    """One kind of worker: its enclaves and its queue."""

    enclaves: Annotated[tuple[EnclaveAddress, ...], Field(min_length=1, max_length=64, strict=False)]
    """The address of the first process of each enclave; how many processes there are, the enclave tells."""
    engine: EngineSettings
    workers_per_instance: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes under one service, each with the pollers and slots of `engine`. One for each vCPU is a good start."""
    health_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """`/healthz` and `/readyz` on 127.0.0.1; None has none."""

    @model_validator(mode="after")
    def _different_enclaves(self) -> Self:
        if len(set(self.enclaves)) != len(self.enclaves):
            raise ValueError("enclaves: each address once")
        return self


class WorkerSettings(BaseSettings):
    """The whole configuration, complete and cross-checked before anything is opened. Made by `load_worker_settings`."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z0-9]+)+$")]
    """The AWS Region of queues and tables; `AWS_REGION` or `AWS_DEFAULT_REGION` unless set."""
    kms_key_arn: str | None = None
    """The KMS key that the enclaves must be made for; None to take what they say."""
    log_level: Annotated[LogLevel, Field(strict=False)] = LogLevel.INFO
    """Lines below it are not written. Audit lines are `info`."""
    generate: RoleSettings | None = None
    sign: RoleSettings | None = None
    store: StoreSettings = StoreSettings()
    enclave: EnclaveClientSettings = EnclaveClientSettings()
    brakes: BrakeSettings = BrakeSettings()

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        if self.kms_key_arn is not None:
            KmsKey.from_arn(self.kms_key_arn)
        if self.generate is None and self.sign is None:
            raise ValueError("generate, sign: at least one of these tables")
        if self.generate is not None and self.sign is not None:
            if self.generate.engine.queue_url == self.sign.engine.queue_url:
                raise ValueError("generate.engine.queue_url, sign.engine.queue_url: two different queues")
            if set(self.generate.enclaves) & set(self.sign.enclaves):
                raise ValueError("generate.enclaves, sign.enclaves: generator and signer are different enclaves")
            if self.generate.health_port is not None and self.generate.health_port == self.sign.health_port:
                raise ValueError("generate.health_port, sign.health_port: two different ports")
        if self.brakes.table in {self.store.table, self.store.birth_table}:
            raise ValueError("brakes.table: another table than those of store")
        for name, role in (("generate", self.generate), ("sign", self.sign)):
            if role is not None and role.engine.handler_timeout_s <= self.enclave.call_timeout_s:
                raise ValueError(f"{name}.engine.handler_timeout_s: more than enclave.call_timeout_s")
        return self

    def role(self, role: WorkerRole) -> RoleSettings:
        """Return the settings of one kind of worker.

        Raises:
            WorkerConfigError: the file has none.
        """
        found = self.generate if role == "generate" else self.sign
        if found is None:
            raise WorkerConfigError(f"{role}: table is missing")
        return found

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic names the arguments
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Our variables first, then the file, then AWS's own variables for the Region."""
        ours = _OurVariables(settings_cls)
        return (ours, init_settings, InitSettingsSource(settings_cls, _aws_region(ours.env_vars)))


class _OurVariables(EnvSettingsSource):
    """`NITRO_SIGNER_*`, where an unknown name is an error, and values have the types that TOML would give them."""

    def __call__(self) -> dict[str, Any]:
        for name in self.env_vars:
            if not name.startswith(ENV_PREFIX.lower()) or name.upper() in {CONFIG_VARIABLE, CLIENT_VARIABLE}:
                continue
            if name.removeprefix(ENV_PREFIX.lower()).split("__")[0] not in self.settings_cls.model_fields:
                raise WorkerConfigError(f"{name.upper()}: unknown variable")
        return {name: _typed(value) for name, value in super().__call__().items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002 - pydantic's
        """Leave what is not JSON to the model, which can say what is allowed."""
        return _typed(value)


def _typed(value: Any) -> Any:
    if is_map(value):
        return {name: _typed(inner) for name, inner in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _aws_region(env_vars: Mapping[str, str | None]) -> dict[str, Any]:
    region = env_vars.get("aws_region") or env_vars.get("aws_default_region")
    return {"region": region} if region else {}


def load_worker_settings(path: Path) -> WorkerSettings:
    """Read the file and the environment.

    Raises:
        WorkerConfigError: names the file and the key, and says what is allowed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise WorkerConfigError(f"{path}: longer than {MAX_CONFIG_BYTES} bytes")
        return WorkerSettings(**tomllib.loads(data.decode()))
    except OSError as error:
        raise WorkerConfigError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WorkerConfigError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise WorkerConfigError(f"{path}: {describe_validation_error(error)}") from error
