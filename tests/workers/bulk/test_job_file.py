"""Jobs in CSV and JSON lines: counted as an editor counts, bad ones aside, and the same from any position on."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.jobs import GenerateJob, SignJob
from workers.bulk.job_file import COLUMNS, MAX_LINE_BYTES, JobFile, JobFileError, JobFileFormat, Position, Record

if TYPE_CHECKING:
    from collections.abc import Callable

START = Position(0, 0, "")


def read(data: bytes | str, file_format: JobFileFormat = JobFileFormat.JSONL) -> list[Record]:
    """Return all records."""
    raw = data.encode() if isinstance(data, str) else data
    return list(JobFile(io.BytesIO(raw), file_format, run_id="run").records(after=START))


def line(number: int, **more: object) -> str:
    """Return a good line."""
    return json.dumps({"type": "sign", "userid": "u1", "message": f"{number}", **more})


def test_json_lines() -> None:
    """Numbers count empty lines; a job without an id has that of its run and line; the last line needs no end."""
    first, second, third = read(f"{line(1)}\n\n  \r\n{line(4, job_id='own')}\r\nnonsense")
    assert (first.line, first.job and first.job.job_id) == (1, "run-1")
    assert (second.line, second.job and second.job.job_id) == (4, "own")
    assert third == Record(5, None, "the body is not JSON: Expecting value at character 0")


def test_every_field_of_a_job_is_a_column() -> None:
    """A field that is added to jobs is not forgotten here."""
    assert {*COLUMNS, "authorization"} == {*SignJob.model_fields, *GenerateJob.model_fields}


def test_csv_rows_become_jobs() -> None:
    """With the defaults of jobs where a cell is empty."""
    records = read("userid, message,digest\na,x,keccak256\nb,,\n", JobFileFormat.CSV)
    assert [record.job for record in records] == [
        SignJob.model_validate(
            {"type": "sign", "job_id": "run-2", "userid": "a", "message": "x", "digest": "keccak256"}
        ),
        SignJob(type="sign", job_id="run-3", userid="b", message=""),
    ]
    (made,) = read("userid\na\n", JobFileFormat.CSV)
    assert made.job == GenerateJob(type="generate", job_id="run-2", userid="a")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"userid": "\xff"}', "not UTF-8"),
        (b'{"type": "sign", "userid": "u1"}', "sign.message: field is missing"),
        (b'{"type": "sign", "type": "sign"}', "a key stands twice in the body"),
        (b'"' + b"x" * MAX_LINE_BYTES, f"longer than {MAX_LINE_BYTES} bytes"),
        (b'"' + b"x" * (3 * MAX_LINE_BYTES), f"longer than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_a_bad_line_is_told_and_the_next_is_read(data: bytes, problem: str) -> None:
    """However long it is; memory is bounded by the limit of a line."""
    bad, good = read(data + b"\n" + line(2).encode())
    assert bad == Record(1, None, problem)
    assert good.line == 2
    assert good.job is not None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a,b,c", "3 cells, but the header has 2"),
        ("a", "sign.userid: field is missing"),
        ("x" * (MAX_LINE_BYTES + 2) + ",b", f"not CSV: field larger than field limit ({MAX_LINE_BYTES})"),
        ('"m"x,b', "not CSV: ',' expected after '\"'"),
    ],
)
def test_a_bad_csv_row_is_told_and_the_next_is_read(row: str, problem: str) -> None:
    """Too many cells, too few, too long, badly quoted."""
    bad, good = read(f"message,userid\n{row}\nm,b\n", JobFileFormat.CSV)
    assert bad == Record(2, None, problem)
    assert (good.line, good.job is not None) == (3, True)


def test_a_quote_that_is_never_closed_signs_nothing() -> None:
    """The rest of the file is no message of anybody."""
    good, bad = read('message,userid\nm,a\n"m,a\nm,b\n', JobFileFormat.CSV)
    assert (good.line, good.job is not None) == (2, True)
    assert bad == Record(3, None, "a quote that is never closed")


@given(st.lists(st.sampled_from([line(1), "", "bad", '"two\nlines",a', "m,u1", "m,u1,x"]), max_size=12), st.data())
@example(["m,u1"], None)
def test_reading_on_from_a_position_is_reading_on(lines: list[str], data: st.DataObject | None) -> None:
    """What comes after any position between two records is what came after it before."""
    for file_format, head in ((JobFileFormat.JSONL, ""), (JobFileFormat.CSV, "message,userid\n")):
        raw = (head + "".join(f"{one}\n" for one in lines)).encode()
        whole = JobFile(io.BytesIO(raw), file_format, run_id="run")
        seen: list[Record] = []
        positions = [START]
        for record in whole.records(after=START):
            seen.append(record)
            positions.append(whole.position)
        cut = 0 if data is None else data.draw(st.integers(0, len(seen)))
        again = JobFile(io.BytesIO(raw), file_format, run_id="run").records(after=positions[cut])
        assert list(again) == seen[cut:]


@pytest.mark.parametrize(
    "change",
    [lambda raw: raw.replace(b"2", b"3"), lambda raw: raw[:30], lambda _raw: b""],
    ids=["edit", "cut", "gone"],
)
def test_another_file_is_refused(change: Callable[[bytes], bytes]) -> None:
    """When what was read is not what stands there now."""
    raw = f"{line(1)}\n{line(2)}\n{line(3)}\n".encode()
    file = JobFile(io.BytesIO(raw), JobFileFormat.JSONL, run_id="run")
    records = file.records(after=START)
    next(records)
    next(records)
    with pytest.raises(JobFileError, match="2 lines were enqueued"):
        list(JobFile(io.BytesIO(change(raw)), JobFileFormat.JSONL, run_id="run").records(after=file.position))


def test_lines_that_were_added_are_read() -> None:
    """A file may grow while a run is interrupted."""
    raw = f"{line(1)}\n".encode()
    file = JobFile(io.BytesIO(raw), JobFileFormat.JSONL, run_id="run")
    assert len(list(file.records(after=START))) == 1
    more = JobFile(io.BytesIO(raw + line(2).encode()), JobFileFormat.JSONL, run_id="run")
    assert [record.line for record in more.records(after=file.position)] == [2]


@given(st.binary(max_size=300))
@example(b'userid,message\n"')
def test_hostile_bytes_are_records_with_problems(data: bytes) -> None:
    """Nothing but the declared error comes out of any bytes."""
    for file_format in JobFileFormat:
        try:
            records = read(b"userid,message\n" + data if file_format is JobFileFormat.CSV else data, file_format)
        except JobFileError:
            continue
        assert all((record.job is None) == (record.problem is not None) for record in records)
