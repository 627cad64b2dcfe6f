"""The platform of a stack whose enclaves are virtual machines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local.enclave_platform import MeasuredAddresses
from protocol.address import CID_ANY, VsockAddress
from protocol.messages import Role
from tests.vm.cache import CACHE_VARIABLE, Cache
from tests.vm.images import ImageParts, write_image
from tests.vm.machine import PARENT_CID, Paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from local.layout import Layout
    from local.measurements import Measurements

ROOT: Final = Path(__file__).resolve().parents[2]
ENCLAVE_PORT: Final = 5000
PROXY_PORT: Final = 8000
_CIDS: Final = {Role.GENERATOR: 16, Role.SIGNER: 17}


class VirtualMachinePlatform:
    """Each enclave the production program in an image of its own, booted by QEMU."""

    start_timeout_s: float = 900.0
    """Seconds on an idle machine; minutes where eight others want the same two processors."""

    kms_arguments: Sequence[str] = ("--dangerous-accept-qemu-documents",)
    worker_program: Sequence[str] = (sys.executable, "-m", "tests.vm.worker")

    def __init__(self, cache: Cache, parts: ImageParts) -> None:
        self._cache = cache
        self.parts = parts

    @property
    def environ(self) -> Mapping[str, str]:
        """Where the guest program finds the tools."""
        return {CACHE_VARIABLE: str(self._cache.root), "PYTHONPATH": str(ROOT)}

    def paths(self, layout: Layout, role: Role) -> Paths:
        """Return the sockets of one enclave."""
        return Paths(layout.run, str(role))

    def image(self, layout: Layout, role: Role) -> Path:
        """Return the file that is booted."""
        return layout.state / f"{role}.eif"

    def measured_addresses(self, layout: Layout, role: Role) -> MeasuredAddresses:
        """Return real vsock addresses, and lead what the guest dials to where the proxy listens."""
        dialled = self.paths(layout, role).parent_port(PROXY_PORT)
        dialled.unlink(missing_ok=True)
        dialled.symlink_to(layout.run / f"{role}-proxy.sock")
        return MeasuredAddresses(
            listen=VsockAddress(CID_ANY, ENCLAVE_PORT), kms_proxy=VsockAddress(PARENT_CID, PROXY_PORT)
        )

    def make_image(self, layout: Layout, role: Role) -> Measurements:
        """Pack the image of a role."""
        image = self.parts.enclave_image(layout.enclave_config(role).read_bytes())
        return write_image(image, self.image(layout, role))

    def command(self, layout: Layout, role: Role) -> Sequence[str]:
        """Return the program that boots it."""
        command = [sys.executable, "-m", "tests.vm.guest", str(self.image(layout, role))]
        command += ["--folder", str(layout.run), "--name", str(role), "--cid", str(_CIDS[role])]
        return [*command, "--listen", f"{layout.run / f'{role}.sock'}", "--port", str(ENCLAVE_PORT)]
