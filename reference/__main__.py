"""Write the reference pages, or with `--check` tell which of them are not what the code says now."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from reference.commands import commands_page
from reference.errors import errors_page
from reference.jobs import jobs_page
from reference.markdown import NOTE, replace_table
from reference.settings import client_page, enclave_page, worker_page
from reference.tables import logs_tables, transitions_table

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/jobs.md": jobs_page,
    "reference/errors.md": errors_page,
    "reference/commands.md": commands_page,
    "reference/worker-settings.md": worker_page,
    "reference/enclave-settings.md": enclave_page,
    "reference/client-settings.md": client_page,
}


def made() -> dict[Path, str]:
    """Return every page that is made from the code, whole or in part, as it has to be."""
    pages = {DOCS / name: f"{NOTE}\n\n{page()}" for name, page in PAGES.items()}
    metrics = (DOCS / "metrics.md").read_text()
    for heading, table in logs_tables().items():
        metrics = replace_table(metrics, heading, table)
    life = DOCS / "explanation" / "life-cycle.md"
    transitions = replace_table(life.read_text(), "Every transition", transitions_table())
    return pages | {DOCS / "metrics.md": metrics, life: transitions}


def main() -> int:
    """Write or check; return the exit code."""
    pages = made()
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"docs/{path.relative_to(DOCS)} is not what the code says. Run: make reference")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages[path])
        print(f"wrote docs/{path.relative_to(DOCS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
