"""Enclave image files: read, measured, checked and packed, without the Nitro CLI. Pure: bytes in, values out.

Source of the format: aws-nitro-enclaves-image-format, `src/defs` and `src/utils`, version 4 of the format.
"""

from workers.image.eif import Architecture, EifError, Image, Section, SectionType, parse_image
from workers.image.measure import Measurements, measure
from workers.image.metadata import make_metadata
from workers.image.pack import pack_image
from workers.image.signature import ImageSignature

__all__ = [
    "Architecture",
    "EifError",
    "Image",
    "ImageSignature",
    "Measurements",
    "Section",
    "SectionType",
    "make_metadata",
    "measure",
    "pack_image",
    "parse_image",
]
