"""Enclave image files: layout, measurements, signatures, and what is refused."""

import base64
import contextlib
import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from protocol.cbor import encode
from tests.workers.image.parts import APPLICATION, BOOT, COMMAND_LINE, KERNEL, METADATA, ImageSigner
from workers.image import Architecture, EifError, ImageSignature, SectionType, measure, pack_image, parse_image

HEADER_BYTES = 548
CRC_AT = 544


def packed(**changes: Any) -> bytes:
    """Return a sound image."""
    parts: dict[str, Any] = {
        "kernel": KERNEL,
        "command_line": COMMAND_LINE,
        "ramdisks": [BOOT, APPLICATION],
        "metadata": METADATA,
    }
    return pack_image(**(parts | changes))


def with_crc(data: bytes) -> bytes:
    """Return the image with the CRC that its bytes now have, computed here a second time."""
    crc = zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[:CRC_AT]))
    return data[:CRC_AT] + struct.pack(">I", crc) + data[HEADER_BYTES:]


def patched(at: int, value: bytes) -> bytes:
    """Return a sound image with some bytes replaced, and a right CRC."""
    data = packed()
    return with_crc(data[:at] + value + data[at + len(value) :])


def x(content: bytes) -> bytes:
    """Return the register of a content, by the formula of the Nitro CLI's documentation."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(content).digest()).digest()


def test_layout_is_that_of_the_nitro_cli() -> None:
    """Header fields stand at their places, and sections come as kernel, command line, metadata, ramdisks."""
    data = packed(default_memory_bytes=7, default_cpus=3, architecture=Architecture.ARM64)
    assert struct.unpack_from(">4sHHQQHH", data) == (b".eif", 4, 1, 7, 3, 0, 5)
    offsets, sizes = struct.unpack_from(">32Q", data, 28), struct.unpack_from(">32Q", data, 28 + 256)
    contents = [KERNEL, COMMAND_LINE, METADATA, BOOT, APPLICATION]
    assert sizes[:5] == tuple(map(len, contents))
    types = [struct.unpack_from(">HHQ", data, offset)[0] for offset in offsets[:5]]
    assert types == [1, 2, 5, 3, 3]
    assert [data[o + 12 : o + 12 + s] for o, s in zip(offsets[:5], sizes[:5], strict=True)] == contents
    assert data == with_crc(data)


def test_measurements_follow_the_formula() -> None:
    """PCR0 is over everything that runs, PCR1 over what boots, PCR2 over the application, PCR8 over the signer."""
    found = measure(parse_image(packed()))
    assert found.pcr0 == x(KERNEL + COMMAND_LINE + BOOT + APPLICATION)
    assert found.pcr1 == x(KERNEL + COMMAND_LINE + BOOT)
    assert found.pcr2 == x(APPLICATION)
    assert found.pcr8 is None
    assert list(found.as_hex()) == ["PCR0", "PCR1", "PCR2"]


def test_metadata_and_defaults_are_not_measured() -> None:
    """Neither metadata nor the header changes a measurement."""
    other = packed(metadata=b"{}", default_cpus=8, architecture=Architecture.ARM64)
    assert measure(parse_image(other)) == measure(parse_image(packed()))
    assert parse_image(other).architecture is Architecture.ARM64


def test_a_signed_image_has_pcr8() -> None:
    """PCR8 is the measurement of the certificate in DER; the signature counts for this image only."""
    signer = ImageSigner()
    pcr0 = measure(parse_image(packed())).pcr0
    found = measure(parse_image(packed(signature=signer.section(pcr0))))
    assert found.pcr0 == pcr0
    assert found.pcr8 == x(signer.certificate.public_bytes(Encoding.DER))
    with pytest.raises(EifError, match="another image"):
        measure(parse_image(packed(signature=signer.section(bytes(48)))))


@given(
    st.binary(max_size=64),
    st.binary(max_size=64),
    st.lists(st.binary(max_size=64), min_size=1, max_size=29),
    st.binary(max_size=64),
)
def test_what_is_packed_is_read(kernel: bytes, command_line: bytes, ramdisks: list[bytes], metadata: bytes) -> None:
    """Packing and parsing are inverse, and packing twice gives the same bytes."""
    parts: dict[str, Any] = {"kernel": kernel, "command_line": command_line, "ramdisks": ramdisks, "metadata": metadata}
    data = pack_image(**parts)
    assert data == pack_image(**parts)
    image = parse_image(data)
    assert image.contents(SectionType.KERNEL) == (kernel,)
    assert image.contents(SectionType.COMMAND_LINE) == (command_line,)
    assert image.contents(SectionType.RAMDISK) == tuple(ramdisks)
    assert image.metadata == metadata
    assert image.signature is None


@given(st.binary(max_size=1200) | st.binary(max_size=1200).map(lambda tail: b".eif\0\4" + tail))
def test_hostile_bytes_are_refused(data: bytes) -> None:
    """Whatever the bytes are, the answer is an image or an EifError."""
    with contextlib.suppress(EifError):
        parse_image(with_crc(data) if len(data) >= HEADER_BYTES else data)


@given(st.data())
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    """Any one changed bit is noticed: by the CRC, unless something before it is wrong already."""
    image = bytearray(packed())
    bit = data.draw(st.integers(0, 8 * len(image) - 1))
    image[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EifError):
        parse_image(bytes(image))


@given(st.data())
def test_an_edited_image_never_keeps_its_measurements_with_other_contents(data: st.DataObject) -> None:
    """With the CRC put right, an edited image is refused, or has the measurements of the edited contents."""
    image = bytearray(packed())
    at = data.draw(st.integers(0, len(image) - 1))
    image[at] ^= data.draw(st.integers(1, 255))
    try:
        parsed = parse_image(with_crc(bytes(image)))
    except EifError:
        return
    measured = b"".join(bytes(s.content) for s in parsed.sections if s.type is not SectionType.METADATA)
    assert measure(parsed).pcr0 == x(measured)


SECTION_SIZES = 28 + 256
KERNEL_HEADER = HEADER_BYTES
SECOND_HEADER = KERNEL_HEADER + 12 + len(KERNEL)

REFUSED: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty", lambda: b"", "does not begin"),
    ("another file", lambda: b"\x7fELF" + bytes(600), "does not begin"),
    ("only a header's beginning", lambda: packed()[:100], "the header alone"),
    ("version", lambda: patched(4, b"\0\1"), "format version 1"),
    ("future version", lambda: patched(4, b"\0\5"), "format version 5"),
    ("flags", lambda: patched(6, b"\0\2"), "flags"),
    ("reserved", lambda: patched(24, b"\0\1"), "flags"),
    ("crc", lambda: packed()[:-1] + b"!", "damaged"),
    ("no sections", lambda: patched(26, b"\0\0"), "0 sections"),
    ("too many sections", lambda: patched(26, b"\0\x21"), "33 sections"),
    ("fewer sections than the table", lambda: patched(26, b"\0\4"), "more than the 4"),
    ("more sections than the file", lambda: patched(26, b"\0\6"), "cut off in the header of section 5"),
    ("table says another place", lambda: patched(28, b"\0" * 8), "section 0 is not where"),
    ("table says another size", lambda: patched(SECTION_SIZES, b"\0" * 8), "section 0 is not where"),
    ("section type", lambda: patched(KERNEL_HEADER, b"\0\6"), "type 6"),
    ("section type zero", lambda: patched(KERNEL_HEADER, b"\0\0"), "type 0"),
    ("section flags", lambda: patched(KERNEL_HEADER + 2, b"\0\1"), "flags 1"),
    (
        "huge section",
        lambda: with_crc(
            (d := packed())[:SECTION_SIZES] + b"\xff" * 8 + d[SECTION_SIZES + 8 : 552] + b"\xff" * 8 + d[560:]
        ),
        "cut off in section 0",
    ),
    ("bytes at the end", lambda: with_crc(packed() + b"!"), "1 bytes after"),
    ("two kernels", lambda: patched(SECOND_HEADER, b"\0\1"), "2 sections of type kernel"),
    ("no command line", lambda: patched(SECOND_HEADER, b"\0\3"), "0 sections of type command_line"),
    (
        "two metadata",
        lambda: with_crc(packed().replace(b"\0\3" + bytes(9), b"\0\5" + bytes(9), 1)),
        "2 sections of type metadata",
    ),
    (
        "other order",
        lambda: with_crc(
            packed()[:KERNEL_HEADER] + b"\0\2" + packed()[KERNEL_HEADER + 2 : SECOND_HEADER] + b"\0\1"
            + packed()[SECOND_HEADER + 2 :]
        ),
        "another order",
    ),
    (
        "no ramdisk",
        lambda: with_crc(
            packed(ramdisks=[BOOT]).replace(b"\0\3" + bytes(9), b"\0\4" + bytes(9), 1)
        ),
        "no ramdisk",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals_say_why(make: Callable[[], bytes], text: str) -> None:
    """Each way to be no sound image has a sentence of its own."""
    with pytest.raises(EifError, match=text):
        parse_image(make())


def test_what_cannot_be_packed() -> None:
    """An image needs a ramdisk, and has room for 32 sections."""
    with pytest.raises(EifError, match="no ramdisk"):
        packed(ramdisks=[])
    with pytest.raises(EifError, match="33 sections"):
        packed(ramdisks=[b""] * 30)


PCR0 = bytes(range(48))
SIGNER = ImageSigner()
PEM = list(SIGNER.certificate.public_bytes(Encoding.PEM))

BAD_SIGNATURES: list[tuple[str, Any, str]] = [
    ("no CBOR", None, "not valid CBOR"),
    ("two signatures", [{}, {}], "not one certificate"),
    ("another key", [{"signing_certificate": PEM, "signature": [], "more": 1}], "not one certificate"),
    ("byte strings", [{"signing_certificate": bytes(PEM), "signature": []}], "not an array of bytes"),
    ("texts in the array", [{"signing_certificate": ["-"], "signature": []}], "not an array of bytes"),
    ("numbers over 255", [{"signing_certificate": [256], "signature": []}], "not a byte"),
    ("no certificate", [{"signing_certificate": [45], "signature": [1]}], "not a PEM certificate"),
    ("no COSE", [{"signing_certificate": PEM, "signature": [1]}], "the signature: "),
]


@pytest.mark.parametrize(("value", "text"), [row[1:] for row in BAD_SIGNATURES], ids=[row[0] for row in BAD_SIGNATURES])
def test_bad_signature_sections_say_why(value: Any, text: str) -> None:
    """A signature section that is none is refused before any key is used."""
    with pytest.raises(EifError, match=text):
        ImageSignature.parse(b"\xff" if value is None else encode(value))


def test_another_key_than_the_certificates_is_refused() -> None:
    """A signature counts only with the key of the certificate that PCR8 measures."""
    payload = encode({"register_index": 0, "register_value": list(PCR0)})
    forged = encode([{"signing_certificate": PEM, "signature": list(ImageSigner().cose(payload))}])
    with pytest.raises(EifError, match="not that of its certificate"):
        ImageSignature.parse(forged).verify(PCR0)
    ImageSignature.parse(SIGNER.section(PCR0)).verify(PCR0)


def test_another_curve_is_refused() -> None:
    """The Nitro CLI signs with P-384; nothing else is compared with."""
    other = ImageSigner(ec.SECP256R1())
    pem = list(other.certificate.public_bytes(Encoding.PEM))
    section = encode([{"signing_certificate": pem, "signature": list(SIGNER.cose(b"payload"))}])
    with pytest.raises(EifError, match="another key than P-384"):
        ImageSignature.parse(section).verify(PCR0)


def test_an_unknown_kind_of_key_is_refused() -> None:
    """A certificate whose key no library knows is a refusal like any other."""
    ec_key = bytes.fromhex("06072a8648ce3d0201")
    der = SIGNER.certificate.public_bytes(Encoding.DER).replace(ec_key, ec_key[:-1] + b"\x09")
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n".encode()
    section = encode([{"signing_certificate": list(pem), "signature": list(SIGNER.cose(b"payload"))}])
    with pytest.raises(EifError, match="unknown kind of key"):
        ImageSignature.parse(section).verify(PCR0)


@given(st.binary(max_size=300))
def test_hostile_signatures_are_refused(data: bytes) -> None:
    """Whatever a signature section holds, the answer is a signature or an EifError."""
    with contextlib.suppress(EifError):
        ImageSignature.parse(data).verify(PCR0)
