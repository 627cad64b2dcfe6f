"""The container: a header of 548 bytes, then sections, each with a header of 12 bytes. All numbers are big-endian.

Header: magic, u16 version, u16 flags, u64 default memory, u64 default CPUs, u16 reserved, u16 number of sections,
u64 offsets[32] (of the section headers), u64 sizes[32] (of the contents), u32 unused, u32 CRC-32 over all other bytes.
Section: u16 type, u16 flags, u64 size of the content.

The hardware's loader reads the table of the header, tools read one section after the other. A file where the two
differ would be measured as one thing and run as another, so it is refused.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum, unique
from typing import Final

MAGIC: Final = b".eif"
CURRENT_VERSION: Final = 4
READABLE_VERSIONS: Final = (2, 3, 4)
"""Version 1 had no CRC; 3 added the signature, 4 the metadata."""

MAX_SECTIONS: Final = 32
HEADER: Final = struct.Struct(f">4sHHQQHH{MAX_SECTIONS}Q{MAX_SECTIONS}QLL")
SECTION_HEADER: Final = struct.Struct(">HHQ")
CRC_BYTES: Final = 4

_ARM64: Final = 1


class EifError(ValueError):
    """Not an enclave image, or a damaged or ambiguous one; one line that says what is wrong."""


@unique
class SectionType(IntEnum):
    """What a section holds. Type 0 means invalid."""

    KERNEL = 1
    COMMAND_LINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


_TYPES: Final = frozenset(SectionType)


@unique
class Architecture(Enum):
    """What the image runs on."""

    X86_64 = "x86_64"
    ARM64 = "arm64"


@dataclass(frozen=True, slots=True)
class Section:
    """One section, without its header."""

    type: SectionType
    content: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Image:
    """The parts of an image, in the order in which they stand in the file.

    Attributes:
        version: of the format.
        default_memory_bytes: what the builder proposes; `nitro-cli run-enclave` decides.
        default_cpus: the same.
    """

    version: int
    architecture: Architecture
    default_memory_bytes: int
    default_cpus: int
    sections: tuple[Section, ...]

    def contents(self, kind: SectionType) -> tuple[bytes | memoryview, ...]:
        """Return the contents of all sections of one type."""
        return tuple(section.content for section in self.sections if section.type is kind)

    @property
    def signature(self) -> bytes | None:
        """The content of the signature section, not checked."""
        found = self.contents(SectionType.SIGNATURE)
        return bytes(found[0]) if found else None

    @property
    def metadata(self) -> bytes | None:
        """JSON about the build. Nothing measures it: whoever has the file can change it."""
        found = self.contents(SectionType.METADATA)
        return bytes(found[0]) if found else None


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where the header's table says that a section is."""

    offset: int
    size: int


def parse_image(data: bytes) -> Image:
    """Take an image apart; its sections are views of `data`.

    Raises:
        EifError: not this format, damaged (CRC), or more or other sections than the hardware would load.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise EifError("not an enclave image: it does not begin with .eif")
    if len(data) < HEADER.size:
        raise EifError(f"cut off: {len(data)} bytes, and the header alone has {HEADER.size}")
    _, version, flags, memory, cpus, reserved, count, *rest = HEADER.unpack_from(data)
    if version not in READABLE_VERSIONS:
        raise EifError(f"format version {version}; readable are {', '.join(map(str, READABLE_VERSIONS))}")
    if flags & ~_ARM64 or reserved:
        raise EifError("flags that this format does not have")
    *table, _unused, crc = rest
    if crc != (found := compute_crc(data)):
        raise EifError(f"damaged: its CRC-32 is {found:08x}, its header says {crc:08x}")
    if not 0 < count <= MAX_SECTIONS:
        raise EifError(f"{count} sections; an image has 1 to {MAX_SECTIONS}")
    entries = [_Entry(table[i], table[MAX_SECTIONS + i]) for i in range(MAX_SECTIONS)]
    if any(entry.offset or entry.size for entry in entries[count:]):
        raise EifError(f"the table of the header has more than the {count} sections that it says")
    sections = tuple(_walk(data, entries[:count]))
    _check_order([section.type for section in sections])
    return Image(version, Architecture.ARM64 if flags & _ARM64 else Architecture.X86_64, memory, cpus, sections)


def compute_crc(data: bytes) -> int:
    """Return the CRC-32 (IEEE 802.3) over everything but its own field."""
    crc_at = HEADER.size - CRC_BYTES
    view = memoryview(data)
    return zlib.crc32(view[HEADER.size :], zlib.crc32(view[:crc_at]))


def _walk(data: bytes, entries: list[_Entry]) -> Iterator[Section]:
    view = memoryview(data)
    position = HEADER.size
    for number, entry in enumerate(entries):
        if position + SECTION_HEADER.size > len(data):
            raise EifError(f"cut off in the header of section {number}")
        kind, flags, size = SECTION_HEADER.unpack_from(data, position)
        if entry != _Entry(position, size):
            raise EifError(f"section {number} is not where, or not as large as, the table of the header says")
        if kind not in _TYPES or flags:
            raise EifError(f"section {number} has type {kind} and flags {flags}, which this format does not have")
        position += SECTION_HEADER.size
        if size > len(data) - position:
            raise EifError(f"cut off in section {number}")
        yield Section(SectionType(kind), view[position : position + size])
        position += size
    if position != len(data):
        raise EifError(f"{len(data) - position} bytes after the last section")


def _check_order(kinds: list[SectionType]) -> None:
    """Measurements are over contents in file order, so only the order of the Nitro CLI has the meaning we print."""
    for kind in (SectionType.KERNEL, SectionType.COMMAND_LINE):
        if kinds.count(kind) != 1:
            raise EifError(f"{kinds.count(kind)} sections of type {kind.name.lower()}; an image has one")
    for kind in (SectionType.SIGNATURE, SectionType.METADATA):
        if kinds.count(kind) > 1:
            raise EifError(f"{kinds.count(kind)} sections of type {kind.name.lower()}; an image has one at most")
    if SectionType.RAMDISK not in kinds:
        raise EifError("no ramdisk")
    measured = [kind for kind in kinds if kind in {SectionType.KERNEL, SectionType.COMMAND_LINE, SectionType.RAMDISK}]
    if measured != sorted(measured):
        raise EifError("kernel, command line and ramdisks are in another order")
