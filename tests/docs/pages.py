"""The pages of the documentation, as text with parts: links, headings, blocks of code."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^\1\2$\n?", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def pages() -> list[Path]:
    """Return every Markdown page for readers of the project."""
    return sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and pictures, those in blocks of code left out."""
    yield from _LINK.findall(_FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return what a link may name after the `#`: the headings, as Python-Markdown and GitHub both write them."""
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"[^\w\s-]", "", heading.lower().replace("`", "")).strip()
        found[re.sub(r"\s", "-", text)] += 1
    return set(found)
