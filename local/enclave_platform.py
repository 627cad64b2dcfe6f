"""What the enclaves of a stack run on: processes of this machine, or what a test brings."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from local.enclave import measure_enclave
from local.layout import Layout
from local.measurements import Measurements
from protocol.address import Address
from protocol.messages import Role


@dataclass(frozen=True, slots=True)
class MeasuredAddresses:
    """The addresses in an enclave's configuration, as it sees them from inside."""

    listen: Address
    kms_proxy: Address


class EnclavePlatform(Protocol):
    """Makes images and starts enclaves.

    Wherever they run, the parent reaches an enclave at `Layout.enclave_address`, and its proxy listens at
    `Layout.proxy_address`.
    """

    @property
    def start_timeout_s(self) -> float:
        """How long an enclave may take until it answers."""
        ...

    @property
    def kms_arguments(self) -> Sequence[str]:
        """What the attesting KMS is told besides, so that it believes these enclaves."""
        ...

    @property
    def environ(self) -> Mapping[str, str]:
        """Variables of `command`."""
        ...

    @property
    def worker_program(self) -> Sequence[str]:
        """What the workers of these enclaves are started with."""
        ...

    def measured_addresses(self, layout: Layout, role: Role) -> MeasuredAddresses:
        """Return what the configuration of an enclave shall say."""
        ...

    def make_image(self, layout: Layout, role: Role) -> Measurements:
        """Make the image of the configuration that lies at `Layout.enclave_config`."""
        ...

    def command(self, layout: Layout, role: Role) -> Sequence[str]:
        """Return the program that is one enclave; it ends on SIGTERM."""
        ...


class ProcessPlatform:
    """Each enclave an ordinary process with the stand-in NSM: the platform of `nitro-local`."""

    start_timeout_s: float = 30.0
    kms_arguments: Sequence[str] = ()
    worker_program: Sequence[str] = (sys.executable, "-m", "workers")
    environ: Mapping[str, str] = {}

    def measured_addresses(self, layout: Layout, role: Role) -> MeasuredAddresses:
        """Return Unix sockets: inside and outside are one."""
        return MeasuredAddresses(listen=layout.enclave_address(role), kms_proxy=layout.proxy_address(role))

    def make_image(self, layout: Layout, role: Role) -> Measurements:
        """Measure code and configuration; there is no image to make."""
        return measure_enclave(layout.enclave_config(role).read_bytes())

    def command(self, layout: Layout, role: Role) -> Sequence[str]:
        """Return the stand-in's own program."""
        config = str(layout.enclave_config(role))
        return (sys.executable, "-m", "local.enclave", config, "--state", str(layout.nitro))
