"""Enclave images of this checkout: packed by the product's own packer, measured by its own reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from local.measurements import Measurements
from tests.vm import boot, ramdisks
from workers.image import make_metadata, measure, pack_image, parse_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.vm.cache import Cache

COMMAND_LINE: Final = b"reboot=k panic=-1 console=ttyS0 quiet"
CONFIG_NAME: Final = "etc/nitro-signer/enclave.toml"
MEMORY_BYTES: Final = 1 << 30
_METADATA: Final = make_metadata(name="nitro-signer-vm", version="0")


@dataclass(frozen=True, slots=True)
class ImageParts:
    """What the images of one checkout have in common."""

    kernel: bytes
    ramdisks: tuple[bytes, ...]

    @classmethod
    def of_this_checkout(cls, cache: Cache) -> ImageParts:
        """Build them; the large one comes from the cache when it was built before."""
        parts = (boot.boot_ramdisk(cache), ramdisks.packages_ramdisk(cache), ramdisks.program_ramdisk(cache))
        return cls(read_kernel(cache), parts)

    def enclave_image(self, config: bytes) -> bytes:
        """Return the image of an enclave with this measured configuration."""
        return self.image([boot.start_ramdisk({CONFIG_NAME: config})])

    def image(self, more: Sequence[bytes]) -> bytes:
        """Return an image with further ramdisks behind the common ones."""
        return pack_image(
            kernel=self.kernel,
            command_line=COMMAND_LINE,
            ramdisks=[*self.ramdisks, *more],
            metadata=_METADATA,
            default_memory_bytes=MEMORY_BYTES,
            default_cpus=1,
        )


def read_kernel(cache: Cache) -> bytes:
    """Return the kernel, a bzImage."""
    (found,) = (cache.kernel / "boot").glob("vmlinuz-*")
    return found.read_bytes()


def write_image(image: bytes, path: Path) -> Measurements:
    """Write an image and return what the machine will measure of it."""
    path.write_bytes(image)
    found = measure(parse_image(image)).as_hex()
    return Measurements(*(bytes.fromhex(found[name]) for name in ("PCR0", "PCR1", "PCR2")))
