"""What becomes of a job: a value, never an exception, so that one job cannot end its siblings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from protocol.errors import SignerError
from protocol.jobs import GenerateReply, Job, SignBatchReply, SignReply, WorkerType


@dataclass(frozen=True, slots=True)
class Answered:
    """The job is done, and what it made is durable: the reply may go out."""

    reply: GenerateReply | SignReply | SignBatchReply


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed; whether for good, the error's code says."""

    error: SignerError
    reply: SignBatchReply | None = None
    """What to answer when there is no further try: what is done of a bulk job, and what is not."""


Outcome: TypeAlias = Answered | Failed


class JobHandler(Protocol):
    """Does the work of one type of job; the engine does everything about queues."""

    @property
    def job_type(self) -> WorkerType:
        """The worker whose jobs it does: see `worker` of a job."""
        ...

    async def handle(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Do jobs of this type together; return one outcome for each, in their order. Raises nothing."""
        ...
