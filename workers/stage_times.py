"""How long the stages of jobs take: samples of an interval, for telemetry. Pure."""

from enum import StrEnum, unique

from workers.embedded_metrics import LatencySample


@unique
class Stage(StrEnum):
    """A part of the way of a job, by the name of its metric."""

    WORK = "WorkTime"  # with the handler: store, enclave, verification
    ENCLAVE = "EnclaveTime"  # of that: from handing items to an enclave process until its answer
    REPLY = "ReplyTime"  # until SQS has the reply
    COPY = "CopyTime"  # until the dead-letter queue has a copy
    DELETE = "DeleteTime"
    RELEASE = "ReleaseTime"
    JOB = "JobTime"  # from its receive until its message is deleted


class StageTimes:
    """Samples by stage, in milliseconds. A stage counts once for all the jobs that went through it together."""

    def __init__(self) -> None:
        self._samples = {stage: LatencySample() for stage in Stage}

    def add(self, stage: Stage, seconds: float) -> None:
        """Take note of how long one took."""
        self._samples[stage].add(seconds * 1000)

    def take(self) -> dict[Stage, list[float]]:
        """Return the milliseconds of the interval that ends here, and begin the next one."""
        samples, self._samples = self._samples, {stage: LatencySample() for stage in Stage}
        return {stage: sample.values for stage, sample in samples.items()}
