"""What the hardware would measure, for an enclave that is an ordinary process on a laptop.

The rules are those of the Nitro CLI (aws-nitro-enclaves-image-format): X(b) = SHA-384(48 zero bytes || SHA-384(b));
PCR0 over kernel, command line and all ramdisks, PCR1 over kernel, command line and first ramdisk, PCR2 over the rest.
The stand-in's kernel, command line and first ramdisk are constants; its second ramdisk is the code and the config.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from protocol.cbor import encode_canonical

PCR_BYTES = 48
_KERNEL = b"nitro-local stand-in kernel"
_COMMAND_LINE = b"nitro-local stand-in command line"
_BOOT_RAMDISK = b"nitro-local stand-in boot ramdisk"

MEASURED_PACKAGES = ("config", "enclave", "protocol")
"""What a real image would contain of this project."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """PCR0, PCR1 and PCR2 of an image, 48 bytes each."""

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes


DEBUG_MEASUREMENTS = Measurements(bytes(PCR_BYTES), bytes(PCR_BYTES), bytes(PCR_BYTES))
"""What the hardware reports of an enclave in debug mode."""


def measure(config_bytes: bytes, code_digest: bytes) -> Measurements:
    """Return the measurements of an image that holds this config and this code. Another of either is another PCR0."""
    boot = _KERNEL + _COMMAND_LINE + _BOOT_RAMDISK
    application = encode_canonical({"code": code_digest, "config": config_bytes})
    return Measurements(pcr0=_extend_once(boot + application), pcr1=_extend_once(boot), pcr2=_extend_once(application))


def measure_identity(text: str) -> bytes:
    """Return PCR3 (of a role ARN) or PCR4 (of an instance id): SHA-384(48 zero bytes || text), without inner hash."""
    return hashlib.sha384(bytes(PCR_BYTES) + text.encode()).digest()


def digest_code(root: Path, packages: Iterable[str] = MEASURED_PACKAGES) -> bytes:
    """Return the SHA-256 over the names and contents of the Python files of some packages below `root`."""
    files = sorted(file for package in packages for file in (root / package).rglob("*.py"))
    listing = {file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).digest() for file in files}
    return hashlib.sha256(encode_canonical(listing)).digest()


def _extend_once(part: bytes) -> bytes:
    return hashlib.sha384(bytes(PCR_BYTES) + hashlib.sha384(part).digest()).digest()
