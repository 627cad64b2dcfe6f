"""Reads an attestation document from a file or standard input: binary, or base64 in any of its alphabets."""

import base64
import binascii
import sys
from pathlib import Path
from typing import Final

import typer

MAX_INPUT_BYTES: Final = 64 * 1024
"""A document has at most 16.5 KB, in base64 with line ends under 24 KB."""

_FIRST_BYTES: Final = b"\x84\xd2"  # an array of four, or tag 18 around it; neither begins a base64 text
_STANDARD_INPUT: Final = "-"


def read_document(name: str, *, option: str) -> bytes:
    """Return the bytes of a document; whether they are one is for the parser to say.

    Raises:
        typer.BadParameter: not readable, or far too long.
    """
    try:
        if name == _STANDARD_INPUT:
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with Path(name).open("rb") as source:
                data = source.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{name}: {error.strerror}", param_hint=option) from error
    if len(data) > MAX_INPUT_BYTES:
        raise typer.BadParameter(f"{name} has more than {MAX_INPUT_BYTES} bytes: not a document", param_hint=option)
    return _decoded(data)


def _decoded(data: bytes) -> bytes:
    if data[:1] and data[:1] in _FIRST_BYTES:
        return data
    text = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return data  # the parser says what is wrong with it
