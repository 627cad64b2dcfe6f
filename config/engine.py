"""Settings of the queue engine of one worker process: complete, cross-checked, with units in their names."""

import re
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from protocol.model import StrictModel

SQS_BATCH_ENTRIES: Final = 10
"""Entries of one batch call, and messages of one receive (SQS API reference)."""

SQS_MAX_VISIBILITY_S: Final = 43_200
"""A message can be kept from others for 12 hours from its receive (SQS, ChangeMessageVisibility)."""

SQS_MAX_BYTES: Final = 1_048_576
"""Of one message, and of all messages of a batch together (SQS quotas since August 2025)."""

ITEMS_PER_SLOT: Final = 100
"""Of a bulk job. So slots bound the memory of a worker, but for what the receives under way may bring beyond them."""

_QUEUE_NAME = r"[A-Za-z0-9_-]"

Seconds = Annotated[float, Field(gt=0, le=SQS_MAX_VISIBILITY_S)]


class EngineSettings(StrictModel):
    """What the engine of one process does with its queue. All queues are named by URL."""

    queue_url: str
    """The queue whose jobs this worker takes."""
    reply_queue_url: str
    """Where replies go when a job names no `reply_to`."""
    dead_letter_queue_url: str | None = None
    """Takes copies of jobs that failed for good. Without it the error reply alone makes such a failure durable."""
    reply_to_allow: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = ()
    """Queue URLs that a job may name as `reply_to`; `*` stands for any letters, digits, `-` and `_`."""

    slots: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Jobs in flight at once. A slot is taken before a message is received. A bulk job takes one for each hundred items
    (about 0.13 MiB); while it owes those beyond the first, nothing is received."""
    slot_linger_ms: Annotated[float, Field(ge=0, le=1_000)] = 10.0
    """How long a poll waits for ten free slots before it asks for fewer messages: fuller receives, fewer calls."""
    pollers: Annotated[int, Field(ge=1, le=64)] = 2
    """Concurrent receives on a busy queue. On an empty one only the first keeps polling."""
    wait_time_s: Annotated[int, Field(ge=1, le=20)] = 20
    """Long polling. A poll that is running when a drain begins is waited for: see `drain_deadline_s`."""
    receive_backoff_cap_s: Seconds = 30.0
    """Longest pause after errors of the queue itself."""

    visibility_timeout_s: Annotated[int, Field(ge=5, le=SQS_MAX_VISIBILITY_S)] = 60
    """How long a received message is hidden from others, and each heartbeat hides it again."""
    visibility_margin_s: Annotated[float, Field(ge=0)] = 2.0
    """Taken off a receive's visibility: SQS starts counting before its answer arrives here."""
    heartbeat_interval_s: Seconds | None = None
    """A third of what is left of the visibility timeout unless set."""
    handler_timeout_s: Seconds = 120.0
    """The longest that one batch of jobs may take; then they are released as `deadline_exceeded`."""
    max_extension_s: Annotated[int, Field(ge=5, le=SQS_MAX_VISIBILITY_S)] = 900
    """Heartbeats keep a message from others no longer than this after its receive."""

    max_receive_count: Annotated[int, Field(ge=1, le=1_000)] = 8
    """A job that fails on this receive fails for good. Give the queue's own redrive policy a higher number: it then
    takes only what a worker could not even report."""
    backoff_base_s: Seconds = 1.0
    """Longest pause after the first failure; see `backoff_cap_s`."""
    backoff_cap_s: Seconds = 300.0
    """A failed job is hidden for a random time up to base * 2^(receive count - 1), at most this."""

    call_tries: Annotated[int, Field(ge=1, le=10)] = 3
    """How often an entry of a batch call is tried before its job is released."""
    call_timeout_s: Seconds = 10.0
    """Of one call that sends, deletes or changes visibility."""
    call_backoff_ms: Annotated[float, Field(gt=0, le=10_000)] = 100.0
    """Longest pause before the second try of an entry; it doubles with each further one."""
    flush_ms: Annotated[float, Field(ge=0, le=1_000)] = 5.0
    """How long an entry waits for others to share its batch call."""
    max_batch_bytes: Annotated[int, Field(ge=1_024, le=SQS_MAX_BYTES)] = SQS_MAX_BYTES
    """Of one message and of one batch; lower it for servers with the old limit of 256 KiB."""

    drain_deadline_s: Seconds = 50.0
    """How long jobs in flight may finish after a drain begins; the rest is then released."""
    settle_timeout_s: Seconds = 10.0
    """How long the last releases and deletes may take after that."""

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        usable_s = self.visibility_timeout_s - self.visibility_margin_s
        for name in ("queue_url", "reply_queue_url", "dead_letter_queue_url"):
            _check_queue_url(name, getattr(self, name))
        for pattern in self.reply_to_allow:
            _check_queue_url("reply_to_allow", pattern.replace("*", "x"))
        queues = [self.queue_url, self.reply_queue_url, self.dead_letter_queue_url]
        checks = (
            (
                len(set(queues)) == len(queues),
                "queue_url, reply_queue_url, dead_letter_queue_url: three different queues",
            ),
            (self.pollers <= self.slots, "pollers: at most as many as slots"),
            (
                self.visibility_margin_s <= self.visibility_timeout_s / 2,
                "visibility_margin_s: at most half the timeout",
            ),
            (self.beat_interval_s <= usable_s / 2, "heartbeat_interval_s: two must fit before visibility runs out"),
            (
                self.handler_timeout_s + self.visibility_timeout_s <= self.max_extension_s,
                "max_extension_s: at least handler_timeout_s + visibility_timeout_s",
            ),
            (self.backoff_base_s <= self.backoff_cap_s, "backoff_cap_s: at least backoff_base_s"),
            (self.drain_deadline_s > self.wait_time_s, "drain_deadline_s: more than wait_time_s, to let a poll end"),
        )
        for holds, problem in checks:
            if not holds:
                raise ValueError(problem)
        return self

    @property
    def beat_interval_s(self) -> float:
        """Seconds between heartbeats of one message: as set, or derived so that two may fail."""
        if self.heartbeat_interval_s is not None:
            return self.heartbeat_interval_s
        return (self.visibility_timeout_s - self.visibility_margin_s) / 3

    @property
    def connections(self) -> int:
        """Size of the HTTP connection pool that never makes a poll wait for a reply, or a reply for a poll."""
        return self.pollers + 4 + min(60, 2 * -(-self.slots // SQS_BATCH_ENTRIES))

    @property
    def read_timeout_s(self) -> float:
        """How long the HTTP client may wait for bytes: longer than any call is given, a long poll above all."""
        return self.wait_time_s + self.call_timeout_s + 1

    def allows_reply_to(self, url: str) -> bool:
        """Whether a job may have its reply sent to this queue."""
        return url == self.reply_queue_url or any(_matches(pattern, url) for pattern in self.reply_to_allow)


def _check_queue_url(name: str, url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{name}: the URL of a queue")
    if re.fullmatch(rf"{_QUEUE_NAME}{{1,80}}(\.fifo)?", parts.path.rsplit("/", 1)[-1]) is None:
        raise ValueError(f"{name}: the URL ends in the name of a queue")


def _matches(pattern: str, url: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", _QUEUE_NAME + "*"), url) is not None
