"""What holds for every page: its links lead somewhere, and the site shows it."""

import re
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import DOCS, ROOT, anchors, links, pages

MOST_LINES_OF_THE_README = 110


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link within the project names a file that is there, and a heading that it has. Others are https."""
    for link in links(page):
        if "://" in link:
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_of_the_site_link_within_it() -> None:
    """A page in docs/ never links out of docs/: the site could not follow."""
    for page in DOCS.rglob("*.md"):
        for link in links(page):
            if "://" not in link:
                target = (page.parent / link.partition("#")[0]).resolve()
                assert target.is_relative_to(DOCS), f"{page.name}: {link}"


def test_the_site_shows_every_page() -> None:
    """Each page in docs/ stands in the navigation once, and nothing else does."""
    text = (ROOT / "mkdocs.yml").read_text()
    nav = re.findall(r"[\w./-]+\.md\b", text[text.index("\nnav:") :])
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert yaml.safe_load(text)["strict"] is True


def test_the_site_asks_nobody_else() -> None:
    """No font and no script of another host: who reads about keys need not tell a third party."""
    theme = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]
    assert theme["font"] is False
    for page in DOCS.rglob("*.md"):
        assert "<script" not in page.read_text()
        assert "```mermaid" not in page.read_text(), "mermaid would be fetched from elsewhere: draw an SVG"


def test_the_readme_is_short() -> None:
    """One screen and a half."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES_OF_THE_README
