"""The tutorial, done as a new user does it."""

from pathlib import Path

import pytest

from tests.docs.pages import DOCS
from tests.docs.session import Steady, blocks, plain_environ, run_page, with_outputs

pytestmark = pytest.mark.stack

TUTORIAL = DOCS / "tutorial.md"


@pytest.mark.timeout(900)
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """From a fresh stack to a verified Ethereum signature: each command succeeds and prints what the page shows.

    Values that vary may be others, but stand in the same places: the address that eth-account recovers is the one that
    the key was born with.
    """
    page = TUTORIAL.read_text()
    results = run_page(page, tmp_path, plain_environ())
    printed = with_outputs(page, [text for _, text, _ in results])
    assert Steady()(printed) == Steady()(page), (
        "run: python -m tests.docs.session docs/tutorial.md, and read the change"
    )


def test_what_varies_is_still_compared() -> None:
    """Two values that were equal on the page must be equal again; a changed word is a difference."""
    page = "key aaaaaaaaaaaaaaaa\nsent by 0xAAAAAAAAAAAAAAAA\n"
    assert Steady()(page) == Steady()("key bbbbbbbbbbbbbbbb\nsent by 0xBBBBBBBBBBBBBBBB\n")
    assert Steady()(page) != Steady()("key bbbbbbbbbbbbbbbb\nsent by 0xcccccccccccccccc\n")
    assert Steady()(page) != Steady()("key bbbbbbbbbbbbbbbb\nmade by 0xBBBBBBBBBBBBBBBB\n")


def test_every_block_of_commands_is_found() -> None:
    """Nothing that the page tells one to type is left out of the test."""
    page = TUTORIAL.read_text()
    assert len(blocks(page)) == page.count("\n```sh\n")
    assert page.count("\n```text\n") == sum(block.shown is not None for block in blocks(page))


def test_a_command_that_fails_fails_the_page(tmp_path: Path) -> None:
    """The exit code counts, also when the page shows no output."""
    with pytest.raises(AssertionError, match="failed"):
        run_page("```sh\necho before\nfalse\n```\n", tmp_path, plain_environ())
