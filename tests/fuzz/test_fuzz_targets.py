"""A short, repeatable run of every fuzz target; `make fuzz` runs them for long, guided by coverage."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest

from enclave.cms import open_envelope
from protocol.attestation import AtOwnTime, TrustRoot, parse_document
from protocol.attestation.chain import verify_chain
from protocol.birth_verification import BirthRefusedError
from protocol.jobs import parse_job
from protocol.keyproof import KeyProof
from protocol.keyrecord import KeyRecord
from protocol.session import Answered, Received, ServerSession
from tests.fuzz.__main__ import TARGET_NAMES
from tests.fuzz.mutation import mutations
from tests.fuzz.parts import ENVELOPE_KEY, FUZZ_ROOT, greeted_client, joined, parted
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import ANY_DOCUMENT, MESSAGE_ID, TARGETS

_INPUTS = 400


@pytest.mark.parametrize("name", TARGETS)
def test_only_declared_errors_come_out(name: str) -> None:
    """The seeds, and inputs made from them, raise nothing else."""
    for data in [b"", *seeds(name), *itertools.islice(mutations(seeds(name), seed=1), _INPUTS)]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutation_can_be_repeated(name: str) -> None:
    """The same seed gives the same inputs, so that a finding can be found again."""
    inputs = seeds(name)
    first = list(itertools.islice(mutations(inputs, seed=2), 20))
    assert list(itertools.islice(mutations(inputs, seed=2), 20)) == first
    assert len(set(first)) > 10


def test_seeds_are_whole_inputs() -> None:
    """They are taken, so that mutation starts behind every check and not before the first one."""
    for document in seeds("attestation"):
        parse_document(document).verify(FUZZ_ROOT, ANY_DOCUMENT, AtOwnTime())
    for envelope in seeds("cms"):
        assert not any(open_envelope(envelope, ENVELOPE_KEY)[48:])
    *cabundle, leaf = parted(seeds("chain")[0])
    verify_chain(TrustRoot(hashlib.sha256(cabundle[0]).digest()), leaf, tuple(cabundle))
    frames = list(seeds("frames"))
    session = ServerSession()
    taken = [type(event) for frame in [frames[0], *frames[3:8]] for event in session.receive_data(frame)]
    assert taken == [Received] * 6
    client = greeted_client()
    assert [type(event) for frame in frames[8:13] for event in client.receive_data(frame)] == [Answered] * 5
    with pytest.raises(BirthRefusedError, match="pcr"):
        KeyProof.from_line(seeds("records")[-1]).verify(root=FUZZ_ROOT, pcr0=[bytes(48)])
    assert KeyRecord.from_item(json.loads(seeds("records")[0])).userid == "u"
    assert [parse_job(seed.decode(), MESSAGE_ID).worker for seed in seeds("jobs")[:4]] == ["sign"] * 4


def test_parts_survive() -> None:
    """Joined and parted again; and any bytes have parts."""
    assert parted(joined([b"", b"a", bytes(300)])) == [b"", b"a", bytes(300)]
    assert parted(b"") == [b""]
    assert parted(b"\x00\x09ab") == [b"ab"]


def test_the_program_knows_every_target() -> None:
    """Its own list of names is complete."""
    assert tuple(TARGETS) == TARGET_NAMES
