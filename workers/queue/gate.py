"""What may close the queue to this worker for a while: no enclave is up, or an operator pauses signing."""

from collections.abc import Sequence
from typing import Protocol


class Gate(Protocol):
    """Consulted before each poll, and again when a poll brings messages: those are then given back."""

    @property
    def is_open(self) -> bool:
        """Whether messages may be received and worked on now."""
        ...

    async def wait_open(self) -> None:
        """Return once it is open. Cancelling the wait changes nothing."""
        ...


class AllOpen:
    """A gate that is open when all of the given gates are; without any, always."""

    def __init__(self, gates: Sequence[Gate] = ()) -> None:
        self._gates = tuple(gates)

    @property
    def is_open(self) -> bool:
        """Whether all are open."""
        return all(gate.is_open for gate in self._gates)

    async def wait_open(self) -> None:
        """Return once all are open at the same moment."""
        while not self.is_open:
            for gate in self._gates:
                await gate.wait_open()
