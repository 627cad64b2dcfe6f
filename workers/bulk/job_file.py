"""Reads jobs from CSV with a header, or from JSON lines. A bad line is a record with a problem, never an exception.

Lines are counted from 1 as an editor counts them; a CSV record that spans several lines has the number of its first.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import BinaryIO, Final

from config.engine import SQS_MAX_BYTES
from protocol.jobs import Job, JobRefusedError, parse_job

COLUMNS: Final = ("type", "job_id", "userid", "message", "encoding", "digest", "scheme", "format", "reply_to")
"""What a CSV header may name: the fields of a job."""

MAX_LINE_BYTES: Final = SQS_MAX_BYTES
"""No queue takes more."""

_BOM: Final = "\ufeff"
_AT_END: Final = "unexpected end of data"
"""What the csv module says of a file that ends inside quotes."""


@unique
class JobFileFormat(StrEnum):
    """How jobs stand in a file."""

    CSV = "csv"
    JSONL = "jsonl"


class JobFileError(ValueError):
    """The file as a whole cannot be used."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file was read. The hash tells whether it is still the same file up to there."""

    lines: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """One job of the file, or why there is none."""

    line: int
    job: Job | None
    problem: str | None = None


class JobFile:
    """Jobs of a file, in order. A job without an id gets one of the run and its line: sent twice, it is known again."""

    def __init__(self, file: BinaryIO, file_format: JobFileFormat, *, run_id: str) -> None:
        self._file = file
        self._format = file_format
        self._run_id = run_id
        self._hash = hashlib.sha256()
        self._lines = 0
        self._size_bytes = 0

    @property
    def position(self) -> Position:
        """What was read so far: whole records only, when asked between two of them."""
        return Position(self._lines, self._size_bytes, self._hash.hexdigest())

    def records(self, *, after: Position) -> Iterator[Record]:
        """Yield what stands in the file after a position between two records; empty lines are passed over.

        Raises:
            JobFileError: another file than that of the position; or the CSV header is missing, or names a column twice
                or one that jobs do not have.
        """
        lines = self._read()
        return self._csv(lines, after) if self._format is JobFileFormat.CSV else self._json_lines(lines, after)

    def _json_lines(self, lines: Iterator[str], after: Position) -> Iterator[Record]:
        self._skip(lines, after)
        for text in lines:
            if text.strip():
                yield self._record(self._lines, text)

    def _csv(self, lines: Iterator[str], after: Position) -> Iterator[Record]:
        csv.field_size_limit(MAX_LINE_BYTES)
        # strict: a quote that is never closed would make one message out of the rest of the file
        reader = csv.reader(lines, strict=True)
        try:
            columns = _check_header(next(reader, []))
        except (csv.Error, UnicodeEncodeError) as error:
            raise JobFileError("the first line is no CSV header in UTF-8") from error
        self._skip(lines, after)
        while True:
            line = self._lines + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                text = str(error)
                yield Record(line, None, "a quote that is never closed" if text == _AT_END else f"not CSV: {text}")
                continue
            if not cells:
                continue
            if len(cells) > len(columns):
                yield Record(line, None, f"{len(cells)} cells, but the header has {len(columns)}")
                continue
            fields = {name: cell for name, cell in zip(columns, cells, strict=False) if cell}
            fields.setdefault("type", "sign" if "message" in columns else "generate")
            if fields["type"] == "sign" and "message" in columns:
                fields.setdefault("message", "")  # a message may be empty; another cell that is empty is not there
            yield self._record(line, json.dumps(fields, ensure_ascii=False))

    def _skip(self, lines: Iterator[str], after: Position) -> None:
        while self._lines < after.lines and next(lines, None) is not None:
            pass
        if after.lines and self.position != after:
            raise JobFileError(f"not the file of which {after.lines} lines were enqueued: it has changed up to there")

    def _record(self, line: int, body: str) -> Record:
        try:
            body.encode()
        except UnicodeEncodeError:
            return Record(line, None, "not UTF-8")
        if len(body) > MAX_LINE_BYTES:
            return Record(line, None, f"longer than {MAX_LINE_BYTES} bytes")
        try:
            return Record(line, parse_job(body, f"{self._run_id}-{line}"))
        except JobRefusedError as refused:
            return Record(line, None, refused.error.detail)

    def _read(self) -> Iterator[str]:
        """Yield lines; of one that is too long the beginning, which is too long as well."""
        while data := self._file.readline(MAX_LINE_BYTES + 1):
            rest = data
            self._note(rest)
            while not rest.endswith(b"\n") and (rest := self._file.readline(MAX_LINE_BYTES)):
                self._note(rest)
            self._lines += 1
            text = data.decode(errors="surrogateescape")
            yield text.removeprefix(_BOM) if self._lines == 1 else text

    def _note(self, data: bytes) -> None:
        self._hash.update(data)
        self._size_bytes += len(data)


def _check_header(header: list[str]) -> list[str]:
    columns = [name.strip() for name in header]
    "".join(columns).encode()  # fails where bytes of another encoding were
    unknown = [name for name in columns if name not in COLUMNS]
    if not columns:
        raise JobFileError("no header: the first line of CSV names the columns")
    if unknown:
        raise JobFileError(f"unknown column {unknown[0][:64]!r}; there are {', '.join(COLUMNS)}")
    if len(set(columns)) != len(columns):
        raise JobFileError("a column stands twice in the header")
    if "userid" not in columns:
        raise JobFileError("no column userid")
    return columns
