"""The metadata section of an image: JSON that `nitro-cli describe-eif` wants to find, and that nothing measures."""

import json
from typing import Final

_NOT_SAID: Final = "not recorded"
_NO_TIME: Final = "1970-01-01T00:00:00+00:00"
"""The Nitro CLI writes the time of the build here, which is why two of its images never have the same bytes."""


def make_metadata(*, name: str, version: str) -> bytes:
    """Return metadata with these two facts. The other fields are there, and say nothing about the machine of the build.

    The fields are those of `EifIdentityInfo` in aws-nitro-enclaves-image-format, src/defs/mod.rs.
    """
    build = {
        "BuildTime": _NO_TIME,
        "BuildTool": "nitro-signer",
        "BuildToolVersion": _NOT_SAID,
        "OperatingSystem": _NOT_SAID,
        "KernelVersion": _NOT_SAID,
    }
    fields = {
        "ImageName": name,
        "ImageVersion": version,
        "BuildMetadata": build,
        "DockerInfo": {},
        "CustomMetadata": {},
    }
    return json.dumps(fields, separators=(",", ":")).encode()
