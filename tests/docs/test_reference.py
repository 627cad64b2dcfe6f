"""The reference pages are those of the code, and say something of everything."""

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.schema import SCHEMA_NAMES, make_schema
from reference.__main__ import made
from reference.markdown import replace_table


@pytest.mark.parametrize("path", made(), ids=lambda path: path.stem)
def test_pages_are_current(path: Path) -> None:
    """What is checked in is what the code says now."""
    assert path.read_text() == made()[path], "run: make reference"


def test_every_cell_says_something() -> None:
    """No key, field, option or code without a meaning."""
    for path, text in made().items():
        for line in text.splitlines():
            if line.startswith("| `"):
                assert line.split(" | ")[-1].removesuffix("|").strip(), f"{path.name}: {line}"


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_schemas_describe_every_field(name: str) -> None:
    """A reader of the JSON Schema alone learns what each field is."""
    definitions: dict[str, Any] = make_schema(name)["$defs"]
    for model, schema in definitions.items():
        for field, value in schema.get("properties", {}).items():
            referred = definitions.get(value.get("$ref", "").rpartition("/")[2], {})
            assert "description" in value or "description" in referred, f"{model}.{field}"
    assert json.loads(json.dumps(definitions)) == definitions


def test_a_table_is_replaced_below_its_heading_only() -> None:
    """The text around it stays."""
    page = "## A\n\ntext\n\n| a |\n|---|\n| 1 |\n\nafter\n\n## B\n\n| b |\n|---|\n"
    assert replace_table(page, "A", "| x |\n") == page.replace("| a |\n|---|\n| 1 |\n", "| x |\n")
    with pytest.raises(ValueError, match="C"):
        replace_table(page, "C", "")
