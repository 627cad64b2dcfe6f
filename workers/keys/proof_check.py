"""Checks a file of key proofs, line by line, in its order, on several processors.

A line costs one signature check and, when its certificate chain has not been met lately, one chain: about 4 ms. A large
file is therefore spread over processes; the verdicts still come in the file's order, and memory stays bounded.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO, Final

from protocol.attestation import TrustRoot
from protocol.birth_verification import BirthRefusedError, VerifiedBirth
from protocol.keyproof import MAX_PROOF_BYTES, KeyProof, KeyProofError
from protocol.statement import KmsKey

_BATCH_LINES: Final = 128
"""Half a second of work: enough to make handing it over cheap, small enough for a progress bar."""

_BATCHES_AHEAD: Final = 3
"""Per process, so that none waits while the oldest batch is being printed."""

FORMAT_CHECK: Final = "format"
"""The check that a line fails which is no key proof."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file; `number` counts from 1."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BirthFacts:
    """What a verified birth says, in the form in which people and programs read it."""

    born_at: str
    """RFC 3339, UTC, milliseconds."""

    module_id: str
    pcr0: str
    kms_key: KmsKey
    root_sha256: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one line: `birth`, or the check that failed and why."""

    line: int
    size_bytes: int
    userid: str | None
    publickey: str | None
    birth: BirthFacts | None
    failed_check: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Demands:
    """Whose word is taken: one root, and images by their PCR0."""

    root: TrustRoot
    pcr0: frozenset[bytes]


def read_lines(file: BinaryIO, *, start_line: int) -> Iterator[Line]:
    """Read lines from `start_line` on. A line that is too long for a proof ends where it became so, and is judged."""
    number = 0
    while data := file.readline(MAX_PROOF_BYTES + 1):
        number += 1
        rest = data
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_PROOF_BYTES)
        if number >= start_line:
            yield Line(number, data)


def judge(line: Line, demands: Demands) -> Verdict:
    """Verify one line."""
    size = len(line.data)
    try:
        proof = KeyProof.from_line(line.data)
    except KeyProofError as error:
        return Verdict(line.number, size, None, None, None, FORMAT_CHECK, str(error))
    try:
        born = proof.verify(root=demands.root, pcr0=demands.pcr0)
    except BirthRefusedError as error:
        return Verdict(line.number, size, proof.userid, proof.publickey, None, str(error.check), error.text)
    return Verdict(line.number, size, proof.userid, proof.publickey, _facts(born))


def judge_all(lines: Iterable[Line], demands: Demands, *, processes: int) -> Iterator[Verdict]:
    """Verify lines and yield the verdicts in the same order. What fits in one batch starts no process."""
    batches = _batches(lines)
    head = list(islice(batches, 2))
    everything = chain(head, batches)
    if processes == 1 or len(head) == 1:
        for batch in everything:
            yield from _judge_batch(batch, demands)
        return
    # spawn: a progress bar's thread may be running, and a fork would copy its locks
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    ) as pool:
        running: deque[Future[list[Verdict]]] = deque()
        try:
            for batch in everything:
                running.append(pool.submit(_judge_batch, batch, demands))
                if len(running) > processes * _BATCHES_AHEAD:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            for future in running:  # the caller has stopped early: what has not begun shall not
                future.cancel()


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    iterator = iter(lines)
    while batch := list(islice(iterator, _BATCH_LINES)):
        yield batch


def _judge_batch(batch: list[Line], demands: Demands) -> list[Verdict]:
    return [judge(line, demands) for line in batch]


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _facts(born: VerifiedBirth) -> BirthFacts:
    return BirthFacts(
        born_at=born.time.isoformat(timespec="milliseconds"),
        module_id=born.module_id,
        pcr0=born.document.pcrs[0].hex(),
        kms_key=born.statement.kms_key,
        root_sha256=born.document.root.fingerprint.hex(),
    )
