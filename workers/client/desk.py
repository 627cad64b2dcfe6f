"""Gives each waiting call its own answer, by job id; what nobody waits for is counted and dropped."""

import asyncio
import contextlib
from collections.abc import Generator

from pydantic import ValidationError

from protocol.jobs import REPLY, Reply


class ReplyDesk:
    """The calls that wait, by the id of their job.

    Attributes:
        answered: replies that a call was waiting for.
        late: replies to own jobs that nobody was waiting for any more: too late, or delivered twice.
        foreign: replies to jobs of somebody else.
        malformed: messages that are no reply.
        busy: set while a call waits.
    """

    def __init__(self, name: str) -> None:
        """Take the name that begins the job ids of this client, before a full stop."""
        self._own = f"{name}."
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self.answered = 0
        self.late = 0
        self.foreign = 0
        self.malformed = 0
        self.busy = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    @contextlib.contextmanager
    def expect(self, job_id: str) -> Generator[asyncio.Future[Reply], None, None]:
        """Give the answer to a job as a future; after this nobody waits for it any more."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[job_id] = answer
        self.busy.set()
        try:
            yield answer
        finally:
            self._waiting.pop(job_id, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # given up before it was awaited: nobody needs to hear of that
            if not self._waiting:
                self.busy.clear()

    def give_up(self, error: Exception) -> None:
        """End every wait with an error."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)

    def take(self, body: str) -> None:
        """Give a message of the reply queue to whom it belongs."""
        try:
            reply = REPLY.validate_json(body)
        except ValidationError:
            self.malformed += 1
            return
        answer = self._waiting.get(reply.job_id)
        if answer is None or answer.done():
            if reply.job_id.startswith(self._own):
                self.late += 1
            else:
                self.foreign += 1
            return
        self.answered += 1
        answer.set_result(reply)
