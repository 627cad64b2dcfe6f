"""The how-to pages: their commands are run, and their Python stands in programs that are run."""

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.docs.session import Steady, blocks, run_page, stack_environ, with_outputs
from tests.stack.harness import Up

PAGES = sorted((DOCS / "howto").glob("*.md"))
RUN = [page for page in PAGES if blocks(page.read_text())]


@pytest.mark.stack
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_page_does_what_it_says(path: Path, shared_up: Up, tmp_path: Path) -> None:
    """Each command succeeds and prints what the page shows, but for values that vary."""
    page = path.read_text()
    if '"aws --endpoint-url' in page and not (ROOT / ".venv-awscli" / ".installed").exists():
        pytest.skip("no AWS CLI: `make test` installs it")
    results = run_page(page, tmp_path, stack_environ(shared_up))
    printed = with_outputs(page, [text for _, text, _ in results])
    assert Steady()(printed) == Steady()(page), f"run: python -m tests.docs.session {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_python_of_a_page_is_run_somewhere(path: Path) -> None:
    """Each block of Python on a how-to page is a part of an example, and the tests run every example."""
    examples = ["\n".join(_lines(example.read_text())) for example in (ROOT / "examples").glob("*.py")]
    for block in path.read_text().split("```python\n")[1:]:
        part = "\n".join(_lines(block.partition("```")[0]))
        assert any(part in example for example in examples), part


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
