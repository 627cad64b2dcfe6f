"""Seeds from KMS, drawn in large requests: one GenerateRandom serves 32 keys.

The pool lives in one server process and is filled after the process has started, never before a fork, so that no two
processes can ever hold the same bytes. Each seed is given out once and wiped from the pool.
"""

import asyncio
from typing import Final

from enclave.cms import wipe
from enclave.keypair import SEED_BYTES
from enclave.kms import MAX_RANDOM_BYTES, KmsClient

_DRAW_BYTES: Final = MAX_RANDOM_BYTES - MAX_RANDOM_BYTES % SEED_BYTES


class KmsSeeds:
    """A small pool of seeds."""

    def __init__(self, kms: KmsClient) -> None:
        self._kms = kms
        self._pool = bytearray()
        self._filling = asyncio.Lock()

    async def draw(self) -> bytearray:
        """Return one seed of 32 bytes, in a buffer that the caller wipes.

        Raises:
            SignerError: as `KmsClient.generate_random`.
        """
        async with self._filling:
            if not self._pool:
                self._pool = await self._kms.generate_random(_DRAW_BYTES)
            seed = self._pool[-SEED_BYTES:]
            self._pool[-SEED_BYTES:] = bytes(SEED_BYTES)
            del self._pool[-SEED_BYTES:]
            return seed

    def wipe(self) -> None:
        """Forget what is left."""
        wipe(self._pool)
        self._pool.clear()
