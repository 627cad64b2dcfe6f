"""Seeded mutation of whole inputs: what a coverage-guided fuzzer does blindly, for a short run that can be repeated."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_INTERESTING = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x9f", b"\xbf", b"\xc0", b"{", b'"', b"\\u")


def mutations(seeds: Sequence[bytes], *, seed: int) -> Iterator[bytes]:
    """Yield inputs without end; the same seed yields the same."""
    source = random.Random(seed)
    pool = list(seeds)
    while True:
        data = bytearray(source.choice(pool))
        for _ in range(source.randint(1, 6)):
            _mutate(data, pool, source)
        yield bytes(data)


def _mutate(data: bytearray, pool: Sequence[bytes], source: random.Random) -> None:
    place = source.randint(0, len(data))
    length = source.randint(0, 1 + len(data) // 4)
    match source.randint(0, 5):
        case 0 if data:
            data[place % len(data)] ^= 1 << source.randint(0, 7)
        case 1:
            data[place:place] = source.choice(_INTERESTING)
        case 2:
            del data[place : place + length]
        case 3:
            data[place:place] = data[place : place + length]
        case 4:
            other = source.choice(pool)
            start = source.randint(0, len(other))
            data[place : place + length] = other[start : start + length]
        case _:
            data[place : place + 1] = source.randbytes(source.randint(1, 4))
