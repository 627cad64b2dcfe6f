"""A short, repeatable run of every fuzz target; `make fuzz` runs them for long, guided by coverage."""

from __future__ import annotations

import itertools

import pytest

from tests.fuzz.__main__ import TARGET_NAMES
from tests.fuzz.mutation import mutations
from tests.fuzz.targets import TARGETS, seeds

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


def test_the_program_knows_every_target() -> None:
    """Its own list of names is complete."""
    assert tuple(TARGETS) == TARGET_NAMES
