"""What an enclave process has counted, as it says when it is asked for its status."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EnclaveCounts:
    """What one enclave process said last."""

    instance: bytes
    """Its start: another one counts from zero."""
    counters: Mapping[str, int]
