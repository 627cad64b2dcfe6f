"""What an enclave process does for each CPU-second, beside the bare curve in this process."""

import hashlib
import time
from pathlib import Path
from typing import Final

from coincurve import PrivateKey

from benchmarks.enclave_stand import Enclave, make_keys, run_enclaves, sign_batches
from benchmarks.figures import Row, Spread, ratios
from benchmarks.machine import cpu_seconds

_USERS: Final = 100
_BATCH: Final = 100
_WARM: Final = 20_000
_COLD: Final = 600
_KEYS: Final = 300
_NO_CACHE: Final = "[key_cache]\nmax_entries = 0\n"


def bare_signatures_per_cpu_second(count: int = 10_000) -> float:
    """Return how fast coincurve signs messages, hashing included, with nothing around it."""
    key = PrivateKey(hashlib.sha256(b"bare").digest())
    began = time.process_time()
    for number in range(count):
        key.sign_recoverable(hashlib.sha256(number.to_bytes(9, "big")).digest(), hasher=None)
    return count / (time.process_time() - began)


async def measure(folder: Path, rounds: int) -> tuple[dict[str, list[float]], list[Row]]:
    """Return the values of each round by name, and the figures that have goals."""
    warm: list[float] = []
    cold: list[float] = []
    keys: list[float] = []
    bare: list[float] = []
    (folder / "cached").mkdir(parents=True)
    (folder / "uncached").mkdir()
    async with (
        run_enclaves(folder / "cached") as (generator, signer),
        run_enclaves(folder / "uncached", _NO_CACHE) as (other_generator, uncached),
    ):
        records = await make_keys(generator.channel, _USERS)
        other_records = await make_keys(other_generator.channel, _USERS)
        await sign_batches(signer.channel, records, _USERS, _BATCH, 1)
        await sign_batches(uncached.channel, other_records, _USERS, _BATCH, 1)
        for _ in range(rounds):
            bare.append(bare_signatures_per_cpu_second())
            before = _cpu(signer)
            await sign_batches(signer.channel, records, _WARM, _BATCH, 4)
            warm.append(_WARM / (_cpu(signer) - before))
            before = _cpu(uncached)
            await sign_batches(uncached.channel, other_records, _COLD, _BATCH, 1)
            cold.append(_COLD / (_cpu(uncached) - before))
            before = _cpu(generator)
            for _ in range(_KEYS // _USERS):
                await make_keys(generator.channel, _USERS)
            keys.append(_KEYS / (_cpu(generator) - before))
    values = {"bare curve": bare, "enclave warm": warm, "enclave cold": cold, "enclave generate": keys}
    return values, [
        Row("enclave, warm keys, batches of 100: x bare coincurve", ratios(warm, bare), 0.6),
        Row("enclave, cold keys: signatures per CPU-second", Spread.of(cold), 350),
        Row("generate: keys per CPU-second of the enclave", Spread.of(keys), 200),
    ]


def _cpu(enclave: Enclave) -> float:
    return cpu_seconds(enclave.pid)
