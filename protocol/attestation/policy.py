"""What a caller requires of a document. Every demand is stated; the only default is to refuse debug mode."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

MAX_PCR_INDEX: Final = 31
"""attestation_process.md section 3.2.2.2: PCR indices are 0 to 31."""


class Presence(Enum):
    """A rule for a field that speaks of its presence instead of its value."""

    ANYTHING = "anything"
    """The caller does not look at this field."""

    ABSENT = "absent"
    """Null or not there. An empty byte string is there."""

    PRESENT = "present"
    """At least one byte; the caller judges the value itself."""


ANYTHING: Final = Presence.ANYTHING
ABSENT: Final = Presence.ABSENT
PRESENT: Final = Presence.PRESENT

FieldRule: TypeAlias = bytes | Presence
"""For an optional field: exactly these bytes, or a rule on its presence."""

PcrRule: TypeAlias = Mapping[int, Collection[bytes]] | Literal[Presence.ANYTHING]
"""For each named index the values of which the document must have one. Other PCRs are not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPolicy:
    """The demands on a document beyond structure, chain, signature and time, which are always checked.

    The three kinds of document of this project differ here: a KMS document has a `public_key` PRESENT and `user_data`
    ABSENT, a birth certificate and a live attestation have an exact `user_data`, and the latter an exact `nonce`.
    """

    pcrs: PcrRule
    nonce: FieldRule
    public_key: FieldRule
    user_data: FieldRule
    allow_debug: bool = False
    """Accept an enclave in debug mode, whose PCR0, PCR1 and PCR2 say nothing. Never for a key that matters."""

    def __post_init__(self) -> None:
        if self.pcrs is Presence.ANYTHING:
            return
        if not self.pcrs:
            raise ValueError("a policy names at least one PCR; to look at none, say ANYTHING")
        for index, values in self.pcrs.items():
            if not 0 <= index <= MAX_PCR_INDEX:
                raise ValueError(f"PCR{index}: the index is 0 to {MAX_PCR_INDEX}")
            if not values:
                raise ValueError(f"PCR{index}: no value is allowed, so no document could pass")


@dataclass(frozen=True, slots=True)
class AtOwnTime:
    """Verify as of the moment at which the document says it was made. Says nothing about how old it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtClock:
    """Verify as of a clock, and bound the document's age; the certificates alone would let it live for hours."""

    now_s: float
    """Seconds since the Unix epoch."""

    max_age_s: float
    max_future_s: float
    """How far the document's time may lie after `now_s`: the two clocks' disagreement."""


VerificationTime: TypeAlias = AtOwnTime | AtClock
