"""Key proofs: one line a key, verified offline; and whole files of them, in order, on one processor or several."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.attestation import AWS_NITRO_ROOT_G1, FailedCheck
from protocol.birth_verification import BirthCheck, BirthRefusedError
from protocol.keyproof import MAX_PROOF_BYTES, KeyProof, KeyProofError
from workers.keys.proof_check import FORMAT_CHECK, Demands, Line, Verdict, judge, judge_all, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable

MakeProof: TypeAlias = "Callable[[str], KeyProof]"
KEEPS_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def failed_check(proof: KeyProof, demands: Demands, **changes: Any) -> str:
    """Return the check that a changed proof fails."""
    with pytest.raises(BirthRefusedError) as caught:
        proof.model_copy(update=changes).verify(root=demands.root, pcr0=demands.pcr0)
    return caught.value.check


def test_a_proof_survives_its_line_and_verifies(make_proof: MakeProof, demands: Demands) -> None:
    """What is exported can be read again, and says where the key was born."""
    proof = make_proof("u001")
    line = proof.to_line()
    assert line.count(b"\n") == 1
    assert KeyProof.from_line(line) == proof
    born = proof.verify(root=demands.root, pcr0=demands.pcr0)
    assert born.statement.userid == "u001"
    assert born.statement.public_key.hex() == proof.publickey
    assert proof.stored_record_is_certified is True


def test_every_field_of_a_proof_is_judged(make_proof: MakeProof, demands: Demands) -> None:
    """Another user, key or record, another key's certificate, or none, is refused."""
    proof = make_proof("u001")
    other = make_proof("u002")
    assert failed_check(proof, demands, userid="u002") == BirthCheck.USERID
    assert failed_check(proof, demands, publickey=other.publickey) == BirthCheck.KEY
    assert failed_check(proof, demands, stored_sha256=other.stored_sha256) == BirthCheck.RECORD
    assert failed_check(proof, demands, birth_certificate=other.birth_certificate) == BirthCheck.USERID
    assert failed_check(proof, demands, birth_certificate=None) == BirthCheck.CERTIFICATE
    assert failed_check(proof, demands, birth_certificate="AAAA") == BirthCheck.CERTIFICATE
    assert failed_check(proof, Demands(AWS_NITRO_ROOT_G1, demands.pcr0)) == FailedCheck.ROOT
    assert failed_check(proof, Demands(demands.root, frozenset({b"\x01" * 48}))) == FailedCheck.PCR


def test_whether_the_stored_record_is_certified_is_known_without_verifying(make_proof: MakeProof) -> None:
    """The exporter can tell a record that was replaced; without a certificate it knows nothing."""
    proof = make_proof("u001")
    assert proof.model_copy(update={"stored_sha256": "00" * 32}).stored_record_is_certified is False
    assert proof.model_copy(update={"birth_certificate": None}).stored_record_is_certified is None
    assert proof.model_copy(update={"birth_certificate": "AAAA"}).stored_record_is_certified is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"", "not a JSON object"),
        (b"\xff", "not a JSON object"),
        (b"[]", "valid dictionary"),
        (b'{"format": "x", "format": "x"}', "stands twice"),
        (b"[" * 60_000, "too deeply"),
        (b" " * (MAX_PROOF_BYTES + 1), "more than 65536 bytes"),
    ],
)
def test_what_is_no_proof_is_said_in_a_line(line: bytes, text: str) -> None:
    """Other bytes are refused, with the reason."""
    with pytest.raises(KeyProofError, match=text):
        KeyProof.from_line(line)


@pytest.mark.parametrize(
    "changes", [{"extra": 1}, {"format": "other"}, {"userid": "a b"}, {"publickey": "AB" * 64}, {"stored_sha256": "00"}]
)
def test_fields_are_strict(make_proof: MakeProof, changes: dict[str, Any]) -> None:
    """Unknown fields and other forms are refused by name."""
    with pytest.raises(KeyProofError, match=next(iter(changes))):
        KeyProof.from_line(json.dumps(make_proof("u001").model_dump() | changes).encode())


@KEEPS_FIXTURES
@given(st.data())
def test_hostile_edits_of_a_line_end_in_a_verdict(make_proof: MakeProof, demands: Demands, data: st.DataObject) -> None:
    """Whatever is overwritten, cut or inserted: judging never fails, and what passes is still the key that was born."""
    whole = bytearray(make_proof("u001").to_line())
    start = data.draw(st.integers(0, len(whole)))
    whole[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    verdict = judge(Line(1, bytes(whole)), demands)
    assert (verdict.birth is None) == (verdict.failed_check is not None)
    if verdict.birth is not None:
        assert verdict.publickey == make_proof("u001").publickey


@KEEPS_FIXTURES
@given(st.binary(max_size=300))
@example(b"{}")
@example(b'{"userid": "\\ud800"}')
def test_hostile_lines_end_in_a_refusal(demands: Demands, data: bytes) -> None:
    """No bytes raise, and no bytes pass."""
    assert judge(Line(1, data), demands).failed_check == FORMAT_CHECK


def judged(data: bytes, demands: Demands, *, start_line: int = 1, processes: int = 1) -> list[Verdict]:
    """Return the verdicts over a file."""
    return list(judge_all(read_lines(io.BytesIO(data), start_line=start_line), demands, processes=processes))


def test_each_line_has_its_own_verdict(make_proof: MakeProof, demands: Demands) -> None:
    """A bad line is refused alone, and says what is known of it."""
    lines = [make_proof(f"u{number}").to_line() for number in range(3)]
    lines[1] = make_proof("u1").model_copy(update={"userid": "u9"}).to_line()
    verdicts = judged(b"".join([*lines, b"no proof"]), demands)
    assert [(verdict.line, verdict.userid, verdict.failed_check) for verdict in verdicts] == [
        (1, "u0", None),
        (2, "u9", BirthCheck.USERID),
        (3, "u2", None),
        (4, None, FORMAT_CHECK),
    ]
    birth = verdicts[0].birth
    assert birth is not None
    assert birth.born_at == "2026-09-21T14:13:20.250+00:00"
    assert birth.pcr0 == next(iter(demands.pcr0)).hex()
    assert birth.root_sha256 == demands.root.fingerprint.hex()


def test_a_file_can_be_taken_up_in_the_middle(make_proof: MakeProof, demands: Demands) -> None:
    """From the stated line on, under the numbers that the lines have in the whole file."""
    data = b"".join(make_proof(f"u{number}").to_line() for number in range(3))
    assert [(verdict.line, verdict.userid) for verdict in judged(data, demands, start_line=2)] == [(2, "u1"), (3, "u2")]
    assert judged(data, demands, start_line=4) == []


def test_an_endless_line_is_refused_without_being_kept(make_proof: MakeProof, demands: Demands) -> None:
    """A line beyond the limit is one refused line, and the next line is judged as ever."""
    data = b"x" * (3 * MAX_PROOF_BYTES) + b"\n" + make_proof("u001").to_line()
    lines = list(read_lines(io.BytesIO(data), start_line=1))
    assert [len(line.data) <= MAX_PROOF_BYTES + 1 for line in lines] == [True, True]
    assert [verdict.failed_check for verdict in judged(data, demands)] == [FORMAT_CHECK, None]


def test_processes_give_the_verdicts_of_one_in_the_same_order(make_proof: MakeProof, demands: Demands) -> None:
    """A file of many batches has one verdict a line, in order, however many processes judge it."""
    good = make_proof("u001").to_line()
    bad = make_proof("u001").model_copy(update={"stored_sha256": "00" * 32}).to_line()
    data = b"".join(bad if number % 50 == 0 else good for number in range(600))
    alone = judged(data, demands)
    assert [verdict.line for verdict in alone] == list(range(1, 601))
    assert [verdict.line for verdict in alone if verdict.failed_check] == list(range(1, 601, 50))
    assert judged(data, demands, processes=2) == alone


def test_stopping_early_leaves_nothing_running(make_proof: MakeProof, demands: Demands) -> None:
    """Who reads only the first verdicts gets control back; batches that have not begun are not judged."""
    data = make_proof("u001").to_line() * 2000
    source = io.BytesIO(data)
    verdicts = judge_all(read_lines(source, start_line=1), demands, processes=2)
    assert next(iter(verdicts)).line == 1
    verdicts.close()  # type: ignore[attr-defined]  # a generator
    assert source.tell() < len(data)
