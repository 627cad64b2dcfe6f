"""What the hardware measures of an image.

X(b) = SHA-384(48 zero bytes || SHA-384(b)): a register that begins with zeros, extended once. Over the contents of
sections only: neither headers, nor metadata, nor the signature.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from workers.image.eif import Image, SectionType
from workers.image.signature import ImageSignature

PCR_BYTES: Final = 48


@dataclass(frozen=True, slots=True)
class Measurements:
    """The registers that an image decides, 48 bytes each."""

    pcr0: bytes
    """Kernel, command line and all ramdisks: the whole image."""
    pcr1: bytes
    """Kernel, command line and first ramdisk: the same for every image of one release of the Nitro CLI."""
    pcr2: bytes
    """The other ramdisks: the application."""
    pcr8: bytes | None
    """The signing certificate; None for an image without signature (the register is then zero)."""

    def as_hex(self) -> dict[str, str]:
        """Return the names and values that `nitro-cli build-enclave` prints."""
        values = {"PCR0": self.pcr0, "PCR1": self.pcr1, "PCR2": self.pcr2, "PCR8": self.pcr8}
        return {name: value.hex() for name, value in values.items() if value is not None}


def measure(image: Image) -> Measurements:
    """Return the measurements.

    Raises:
        EifError: the signature is not one of this image.
    """
    boot = [*image.contents(SectionType.KERNEL), *image.contents(SectionType.COMMAND_LINE)]
    first, *others = image.contents(SectionType.RAMDISK)
    pcr0 = _extend_once([*boot, first, *others])
    signature = None if image.signature is None else ImageSignature.parse(image.signature)
    if signature is not None:
        signature.verify(pcr0)
    return Measurements(
        pcr0=pcr0,
        pcr1=_extend_once([*boot, first]),
        pcr2=_extend_once(others),
        pcr8=None if signature is None else _extend_once([signature.certificate_der]),
    )


def _extend_once(parts: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.sha384()
    for part in parts:
        digest.update(part)
    return hashlib.sha384(bytes(PCR_BYTES) + digest.digest()).digest()
