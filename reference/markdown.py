"""Tables and texts in Markdown."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable
from typing import Final

NOTE: Final = "<!-- Made from the code by `make reference`. Change it there. -->"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    names = list(columns)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(cell(text) for text in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return a text in one line, with nothing that ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Return a text as code; nothing for no text."""
    return f"`{text}`" if text else ""


def texts_of_fields(model: type) -> dict[str, str]:
    """Return the text below each field of a class and its bases, as the class is written."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if kind.__module__.split(".")[0] in {"config", "protocol", "workers", "local"}:
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
            if isinstance(body, ast.ClassDef):
                found |= _texts(body)
    return found


def _texts(body: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def replace_table(page: str, heading: str, fresh: str) -> str:
    """Return a page with another table in place of the first one below a heading.

    Raises:
        ValueError: there is no such heading with a table.
    """
    section = re.search(rf"^## {heading}\n.*?\n(\|.*?\|\n)(?!\|)", page, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ValueError(f"no table below the heading {heading}")
    return page[: section.start(1)] + fresh + page[section.end(1) :]
