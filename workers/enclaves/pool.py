"""All enclaves of one role: which of them takes a batch, and which of its processes takes an item.

An enclave is chosen by load; within it a user id always goes to the same process while that one is up, so that opened
keys are cached once and not in every process.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Generic

from config.worker import EnclaveClientSettings
from protocol.address import Address
from protocol.errors import ErrorCode, SignerError
from protocol.messages import HelloResult
from workers.enclaves.calls import FromEnclave, ItemT, Operation, ValueT
from workers.enclaves.counts import EnclaveCounts
from workers.enclaves.credentials import CredentialSource
from workers.enclaves.link import EnclaveLink
from workers.stage_times import Stage, StageTimes

MAX_PROCESSES: Final = 64
"""Of one enclave, as its configuration allows; one that claims more is not followed."""


class Enclave(Generic[ItemT, ValueT]):
    """One enclave: its server processes, as many as the first of them says."""

    def __init__(
        self,
        address: Address,
        make_link: Callable[[Address, Callable[[HelloResult], None]], EnclaveLink[ItemT, ValueT]],
        group: asyncio.TaskGroup,
    ) -> None:
        self.links: list[EnclaveLink[ItemT, ValueT]] = []
        self._address = address
        self._make_link = make_link
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []
        self._follow(1)

    @property
    def ready(self) -> list[EnclaveLink[ItemT, ValueT]]:
        """The processes that take items now."""
        return [link for link in self.links if link.is_ready]

    def link_of(self, userid: str) -> EnclaveLink[ItemT, ValueT]:
        """Return the process for a user id: always the same, or another one while that is down. One must be ready."""
        place = zlib.crc32(userid.encode())  # spreads evenly; nothing depends on who can foresee it
        own = self.links[place % len(self.links)]
        if own.is_ready:
            return own
        ready = self.ready
        return ready[place % len(ready)]

    def close(self) -> None:
        """End all connections."""
        self._follow(0)

    def _follow(self, processes: int) -> None:
        for task in self._tasks[processes:]:
            task.cancel()
        del self.links[processes:], self._tasks[processes:]
        while len(self.links) < processes:
            index = len(self.links)
            link = self._make_link(self._address.sibling(index), partial(self._on_hello, index))
            self.links.append(link)
            self._tasks.append(self._group.create_task(link.run(), name=f"enclave link {link.address}"))

    def _on_hello(self, index: int, hello: HelloResult) -> None:
        if index == 0:
            self._follow(max(1, min(hello.enclave.processes, MAX_PROCESSES)))


class EnclavePool(Generic[ItemT, ValueT]):
    """The enclaves of one role. Made by `open_enclave_pool`. It is a gate: open while any process is ready."""

    def __init__(self, operation: Operation[ItemT, ValueT], settings: EnclaveClientSettings, times: StageTimes) -> None:
        self.enclaves: list[Enclave[ItemT, ValueT]] = []
        self._times = times
        self._operation = operation
        self._settings = settings
        self._open = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether any enclave process takes items now."""
        return any(enclave.ready for enclave in self.enclaves)

    async def wait_open(self) -> None:
        """Return once one does."""
        while not self.is_open:
            self._open.clear()
            await self._open.wait()

    def counts(self) -> Mapping[str, EnclaveCounts]:
        """Return what each process had counted when it was last asked, by its address."""
        links = [link for enclave in self.enclaves for link in enclave.links]
        return {str(link.address): link.counts for link in links if link.counts is not None}

    def notice(self) -> None:
        """Look again who is ready."""
        if self.is_open:
            self._open.set()

    async def call(self, items: Sequence[ItemT]) -> list[FromEnclave[ValueT] | SignerError]:
        """Have items done; return a result for each, in their order. Raises nothing.

        The loss of a process costs the items that it had (`enclave_unavailable`) and no others.
        """
        results: list[FromEnclave[ValueT] | SignerError] = [SignerError(ErrorCode.ENCLAVE_UNAVAILABLE)] * len(items)

        async def one(link: EnclaveLink[ItemT, ValueT], places: Sequence[int]) -> None:
            started_at = loop.time()
            answers = await link.submit([items[place] for place in places])
            self._times.add(Stage.ENCLAVE, loop.time() - started_at)
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer

        loop = asyncio.get_running_loop()
        routes = self._route(items)
        async with asyncio.TaskGroup() as group:
            for link, places in routes.items():
                group.create_task(one(link, places))
        return results

    def _route(self, items: Sequence[ItemT]) -> dict[EnclaveLink[ItemT, ValueT], list[int]]:
        """Return for each process the places of its items; nothing when no enclave is up."""
        routes: dict[EnclaveLink[ItemT, ValueT], list[int]] = {}
        enclave = self._least_loaded()
        if enclave is not None:
            for place, item in enumerate(items):
                routes.setdefault(enclave.link_of(item.userid), []).append(place)
        return routes

    def _least_loaded(self) -> Enclave[ItemT, ValueT] | None:
        def load(enclave: Enclave[ItemT, ValueT]) -> float:
            ready = enclave.ready
            return sum(link.in_flight for link in ready) / len(ready)

        return min((enclave for enclave in self.enclaves if enclave.ready), key=load, default=None)


@contextlib.asynccontextmanager
async def open_enclave_pool(
    addresses: Sequence[Address],
    operation: Operation[ItemT, ValueT],
    settings: EnclaveClientSettings,
    credentials: CredentialSource,
    *,
    kms_key_arn: str | None,
    uniform: Callable[[], float],
    times: StageTimes | None = None,
) -> AsyncGenerator[EnclavePool[ItemT, ValueT], None]:
    """Keep connections to all enclaves until the end. It does not wait for any: see `wait_open`.

    Args:
        addresses: of the first process of each enclave.
        operation: what they are for.
        settings: limits and time-outs.
        credentials: what is lent to each of them.
        kms_key_arn: the only KMS key whose enclaves are talked to; None for any.
        uniform: returns a random number in [0, 1), for pauses only.
        times: takes how long enclaves took; None when nobody asks.
    """
    pool = EnclavePool(operation, settings, times or StageTimes())
    async with asyncio.TaskGroup() as group:

        def make_link(address: Address, on_hello: Callable[[HelloResult], None]) -> EnclaveLink[ItemT, ValueT]:
            return EnclaveLink(
                address,
                operation,
                settings,
                credentials,
                group,
                kms_key_arn=kms_key_arn,
                uniform=uniform,
                on_hello=on_hello,
                on_change=pool.notice,
            )

        pool.enclaves.extend(Enclave(address, make_link, group) for address in addresses)
        try:
            yield pool
        finally:
            for enclave in pool.enclaves:
                enclave.close()
