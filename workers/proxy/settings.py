"""The proxy's configuration: one YAML file, that of AWS's vsock-proxy with more keys allowed in it.

allowlist:                       # as AWS's proxy reads it
  - {address: kms.eu-central-1.amazonaws.com, port: 443}
destinations:                    # several in one process; left out when the command line names the one
  - {listen: "vsock://any:8000", host: kms.eu-central-1.amazonaws.com, port: 443, peer_cids: [16]}
limits: {max_connections: 1024}
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from protocol.address import Address, parse_address
from protocol.model import StrictModel, describe_validation_error
from workers.proxy.allowlist import AllowedService, AllowList, HostName, TcpPort

DEFAULT_CONFIG_PATH = Path("/etc/nitro_enclaves/vsock-proxy.yaml")
"""Where AWS's package puts its allow-list."""

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Cid = Annotated[int, Field(ge=0, lt=0xFFFFFFFF)]


class ConfigError(ValueError):
    """The configuration cannot be used; the text is one line that names the key and what is allowed."""


class ProxyLimits(StrictModel):
    """Bounds and time-outs; they hold for each destination of the process."""

    max_connections: Annotated[int, Field(ge=1, le=65536)] = 1024
    connect_timeout_s: Seconds = 5.0
    connect_attempt_delay_s: Seconds = 0.25  # RFC 8305, section 5: the recommended delay between attempts
    idle_timeout_s: Seconds = 300.0
    half_closed_timeout_s: Seconds = 30.0  # one side has closed: the other gets this long without a byte
    total_timeout_s: Seconds = 86400.0
    drain_timeout_s: Seconds = 25.0  # below systemd's and ECS's default of 30 s and more before SIGKILL
    drain_idle_s: Seconds = 1.0  # kept-alive connections that say nothing for so long are closed while draining
    dns_refresh_s: Seconds = 30.0  # the TTL of AWS's endpoints is 5 to 60 s, and getaddrinfo(3) does not tell it
    dns_retry_s: Seconds = 2.0
    metrics_interval_s: Seconds = 60.0


class Destination(StrictModel):
    """One listening address and the one place to which its connections go."""

    listen: str
    host: HostName
    port: TcpPort
    peer_cids: Annotated[list[Cid], Field(min_length=1)] | None = None  # None: any; a Unix socket has no CID
    ip_version: Literal[4, 6] | None = None

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, text: str) -> str:
        parse_address(text)
        return text

    @property
    def address(self) -> Address:
        """The listening address."""
        return parse_address(self.listen)

    @property
    def name(self) -> str:
        """The destination as logs and metrics show it."""
        return f"{self.host}:{self.port}"


class ProxySettings(StrictModel):
    """Everything that the process needs, checked before the first socket opens."""

    allowlist: list[AllowedService]
    destinations: list[Destination] = Field(default_factory=list[Destination])
    limits: ProxyLimits = ProxyLimits()

    @model_validator(mode="after")
    def _each_listens_on_its_own(self) -> Self:
        listening = [destination.listen for destination in self.destinations]
        if len(set(listening)) != len(listening):
            raise ValueError("destinations: each needs a listen address of its own")
        return self

    @property
    def allowed(self) -> AllowList:
        """The allow-list as a decision."""
        return AllowList.of(self.allowlist)


def parse_settings(text: str) -> ProxySettings:
    """Parse the text of a configuration file.

    Raises:
        ConfigError: names the key, and never shows its value.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" near line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"not YAML{where}") from error
    try:
        return ProxySettings.model_validate({} if data is None else data)  # an empty file is a file without keys
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error)) from error


def load_settings(path: Path) -> ProxySettings:
    """Read and parse a configuration file.

    Raises:
        ConfigError: the file cannot be read or used; the text begins with its path.
    """
    try:
        return parse_settings(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def with_destination(settings: ProxySettings, destination: dict[str, object]) -> ProxySettings:
    """Return the settings with this one destination instead of those of the file.

    Raises:
        ConfigError: names the key.
    """
    try:
        return settings.model_copy(update={"destinations": [Destination.model_validate(destination)]})
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error)) from error


def with_max_connections(settings: ProxySettings, limit: int) -> ProxySettings:
    """Return the settings with another cap on connections.

    Raises:
        ConfigError: the cap is out of its range.
    """
    try:
        limits = ProxyLimits.model_validate(settings.limits.model_dump() | {"max_connections": limit})
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error)) from error
    return settings.model_copy(update={"limits": limits})
