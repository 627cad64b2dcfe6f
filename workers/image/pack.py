"""Writes an image as `nitro-cli build-enclave` lays it out: kernel, command line, metadata, ramdisks, signature.

The same parts give the same bytes. The Nitro CLI puts the time of the build into the metadata, so two of its builds
differ as files while their measurements are equal; here the caller decides about every byte.
"""

from collections.abc import Sequence

from workers.image.eif import (
    CRC_BYTES,
    CURRENT_VERSION,
    HEADER,
    MAGIC,
    MAX_SECTIONS,
    SECTION_HEADER,
    Architecture,
    EifError,
    Section,
    SectionType,
    compute_crc,
)


def pack_image(
    *,
    kernel: bytes,
    command_line: bytes,
    ramdisks: Sequence[bytes],
    metadata: bytes,
    signature: bytes | None = None,
    architecture: Architecture = Architecture.X86_64,
    default_memory_bytes: int = 1 << 30,
    default_cpus: int = 2,
) -> bytes:
    """Return the bytes of an image.

    Args:
        kernel: a bzImage (x86_64) or Image (arm64).
        command_line: of the kernel, without a zero at its end.
        ramdisks: compressed cpio archives; the first boots, the others are the application.
        metadata: JSON with ImageName, ImageVersion, BuildMetadata, DockerInfo and CustomMetadata; the Nitro CLI
            refuses to describe an image without them.
        signature: the content of a signature section, made over this image's PCR0.
        architecture: what kernel and ramdisks are made for.
        default_memory_bytes: proposed memory.
        default_cpus: proposed vCPUs.

    Raises:
        EifError: no ramdisk, or more sections than the format has room for.
    """
    sections = [
        Section(SectionType.KERNEL, kernel),
        Section(SectionType.COMMAND_LINE, command_line),
        Section(SectionType.METADATA, metadata),
        *(Section(SectionType.RAMDISK, ramdisk) for ramdisk in ramdisks),
        *([] if signature is None else [Section(SectionType.SIGNATURE, signature)]),
    ]
    if not ramdisks:
        raise EifError("no ramdisk")
    if len(sections) > MAX_SECTIONS:
        raise EifError(f"{len(sections)} sections; an image has at most {MAX_SECTIONS}")
    offsets, sizes = [0] * MAX_SECTIONS, [0] * MAX_SECTIONS
    body = bytearray()
    for number, section in enumerate(sections):
        offsets[number], sizes[number] = HEADER.size + len(body), len(section.content)
        body += SECTION_HEADER.pack(section.type, 0, len(section.content))
        body += section.content
    fields = (
        CURRENT_VERSION,
        int(architecture is Architecture.ARM64),
        default_memory_bytes,
        default_cpus,
        0,
        len(sections),
        *offsets,
        *sizes,
        0,
    )
    image = HEADER.pack(MAGIC, *fields, 0) + body
    crc_at = HEADER.size - CRC_BYTES
    return image[:crc_at] + compute_crc(image).to_bytes(CRC_BYTES, "big") + image[HEADER.size :]
