"""The kernel modules of a guest, in an order in which they can be loaded."""

from __future__ import annotations

import lzma
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ENCLAVE_MODULES: Final = ("virtio_mmio", "nsm", "vmw_vsock_virtio_transport")
"""What an enclave has: its devices on the virtio-mmio bus, the security module, and vsock."""

LOOPBACK_MODULES: Final = ("vsock_loopback",)
"""With it a machine talks to itself over vsock, at CID 1."""

_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")


def find_modules(kernel: Path) -> dict[str, Path]:
    """Return the modules of an unpacked kernel package, by name."""
    found = (kernel / "usr" / "lib" / "modules").rglob("*.ko.xz")
    return {path.name.removesuffix(".ko.xz").replace("-", "_"): path for path in found}


def load_order(wanted: Iterable[str], available: Mapping[str, Path]) -> list[tuple[str, bytes]]:
    """Return names and contents of the wanted modules and of what they depend on, each after its dependencies.

    A wanted module that the package does not have is taken to be built into the kernel.
    """
    ordered: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in ordered or name not in available:
            return
        content = lzma.decompress(available[name].read_bytes())
        match = _DEPENDS.search(content)
        for needed in (match[1].decode() if match else "").split(","):
            visit(needed.replace("-", "_"))
        ordered[name] = content

    for name in wanted:
        visit(name)
    return list(ordered.items())
