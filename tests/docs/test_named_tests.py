"""The documents name tests as proofs. A proof that does not exist proves nothing."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted((ROOT / "docs").glob("**/*.md")), ROOT / "README.md", ROOT / "SECURITY.md"]
THREAT_MODEL = ROOT / "docs" / "threat-model.md"

_NAME = re.compile(r"`(?:tests/)?(?P<file>[\w/]*test_\w+\.py)?(?:…?::)?(?P<function>test_\w+)?`")
"""A file below `tests/`, a function of it, or a function of the file named last in that line (`…::test_x`)."""


@functools.cache
def functions_of(file: Path) -> frozenset[str]:
    """Return the tests of a file."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def find(name: str) -> Path | None:
    """Return the test file of a name, with or without its folder."""
    found = [path for path in (ROOT / "tests").glob(f"**/{Path(name).name}") if path.as_posix().endswith(f"/{name}")]
    return found[0] if len(found) == 1 else None


def missing_names(text: str) -> list[str]:
    """Return what a text names and nobody finds."""
    missing: list[str] = []
    for line in text.splitlines():
        file: Path | None = None
        for match in _NAME.finditer(line):
            if match["file"]:
                file = find(match["file"])
                if file is None:
                    missing.append(match["file"])
            if match["function"] and (file is None or match["function"] not in functions_of(file)):
                missing.append(match["function"])
    return missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    """Renaming a test renames it in the documents, too."""
    assert missing_names(document.read_text()) == []


def test_every_answer_of_the_threat_model_has_a_proof() -> None:
    """Each row of an attack or a risk names a test, a file of tests or a command, in its last column."""
    unproved: list[str] = []
    is_proofs = False
    for row in THREAT_MODEL.read_text().splitlines():
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        if cells[-1] == "proof":
            is_proofs = True
        elif not row.startswith("|"):
            is_proofs = False
        elif is_proofs and not cells[-1].startswith("---") and not re.search(r"`[^`]*test_|`make ", cells[-1]):
            unproved.append(cells[0])
    assert unproved == []


def test_a_name_that_nobody_finds_is_told() -> None:
    """The checks above can fail."""
    here = "`docs/test_named_tests.py::test_a_name_that_nobody_finds_is_told`, `…::missing_names`"
    assert missing_names(here) == []
    assert missing_names(here + ", `test_gone`") == ["test_gone"]
    assert missing_names("`enclave/test_gone.py` and `test_lost`") == ["enclave/test_gone.py", "test_lost"]
