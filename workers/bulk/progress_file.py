"""How far a bulk run has come, kept beside its file so that it can go on: written after each window of jobs."""

from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from protocol.model import StrictModel, describe_validation_error
from workers.bulk.job_file import Position


class ProgressError(ValueError):
    """The state file is none of ours, or does not belong to this file."""


class Progress(StrictModel):
    """What is surely done: every record up to `lines`, and of the window after it those at `sent_ahead`."""

    format: Literal["nitro-signer/enqueue/1"] = "nitro-signer/enqueue/1"
    run_id: str
    lines: int = 0
    size_bytes: int = 0
    sha256: str = ""
    """Of the file up to there."""
    sent_ahead: frozenset[int] = frozenset()
    """Lines after `lines` whose jobs a queue has accepted, when the run ended inside a window."""
    sent: int = 0
    rejected: int = 0

    @property
    def position(self) -> Position:
        """Up to where the file is done."""
        return Position(self.lines, self.size_bytes, self.sha256)

    def write(self, path: Path) -> None:
        """Replace the file as a whole, so that a crash leaves the old one or the new one."""
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(f"{self.model_dump_json()}\n")
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ProgressError: it was not.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ProgressError(f"{path}: not a state file of enqueue: {describe_validation_error(error)}") from error
