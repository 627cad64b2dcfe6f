"""Room for jobs in flight: taken before messages are received, so that none waits unseen for its turn.

What a message brings is known only when it is here. One with a bulk job owes further slots: nobody waits for them, but
none is taken again before all that is owed has come back.
"""

import asyncio
import contextlib


class Slots:
    """A bounded number of slots. Takers are served in the order in which they came."""

    def __init__(self, count: int, linger_s: float) -> None:
        self._free = count
        self._linger_s = linger_s
        self._wanted = 0
        self._enough = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def free(self) -> int:
        """How many are not taken; below zero when more are owed."""
        return self._free

    def owe(self, count: int) -> None:
        """Take further slots for what is here already, free or not. They are given back like the others."""
        self._free -= count

    async def take(self, at_most: int) -> int:
        """Take up to `at_most`, at least one. Waits a moment for all of them, then as long as it must for one.

        Cancelling it takes nothing.
        """
        async with self._turn:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger_s):
                    await self._until(at_most)
            await self._until(1)
            taken = min(at_most, self._free)
            self._free -= taken
            return taken

    def give_back(self, count: int) -> None:
        """Return slots."""
        self._free += count
        if self._free >= self._wanted:
            self._enough.set()

    async def _until(self, count: int) -> None:
        if self._free >= count:
            return
        self._wanted = count
        self._enough.clear()
        await self._enough.wait()
