"""Reads what `nitro-cli build-enclave` and `describe-eif` print: JSON, with lines of text before it from the former.

{"Measurements": {"HashAlgorithm": "Sha384 { ... }", "PCR0": hex, "PCR1": hex, "PCR2": hex[, "PCR8": hex]}}
"""

import json
import re
from typing import Any, Final

_DIGEST: Final = re.compile(r"[0-9a-f]{96}")
_REQUIRED: Final = ("PCR0", "PCR1", "PCR2")


class BuildOutputError(ValueError):
    """Not the output of the Nitro CLI, or a measurement that is none."""


def read_measurements(text: str) -> dict[str, str]:
    """Return the measurements by name (`PCR0`), in lower-case hexadecimal.

    Raises:
        BuildOutputError: says what is wrong.
    """
    start = text.find("{")
    try:
        value: Any = json.loads(text[start:]) if start >= 0 else None
        measurements = value["Measurements"]
        found = {name: str(measurements[name]).lower() for name in _REQUIRED}
        if "PCR8" in measurements:
            found["PCR8"] = str(measurements["PCR8"]).lower()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BuildOutputError("not what nitro-cli build-enclave prints") from error
    for name, digest in found.items():
        if _DIGEST.fullmatch(digest) is None:
            raise BuildOutputError(f"{name} is not a SHA-384 in hexadecimal")
    return found
