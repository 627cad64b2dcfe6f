"""`python -m tests.coverage_gate`: fails where the last `pytest --cov` covered less than is promised; see `make test`.

Branches count. What nobody may break unseen is covered whole: what runs inside an enclave, and the pure core (the list
of the import contract in `pyproject.toml`, so that a module that joins the core joins here).
"""

from __future__ import annotations

import io
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coverage import Coverage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[1]
CORE_CONTRACT: Final = "the pure core knows no I/O"
OVERALL_FLOOR: Final = 95.0


def pure_core() -> list[str]:
    """Return the files of the pure core, as patterns."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [contract] = [one for one in settings["tool"]["importlinter"]["contracts"] if one["name"] == CORE_CONTRACT]
    paths = [ROOT.joinpath(*module.split(".")) for module in contract["source_modules"]]
    files = [path / "*" if path.is_dir() else path.with_suffix(".py") for path in paths]
    if missing := [file for file in files if file.name != "*" and not file.exists()]:
        raise FileNotFoundError(f"in the import contract, but not there: {missing[0]}")
    return [str(file) for file in files]


def groups() -> Mapping[str, tuple[Sequence[str], float]]:
    """Return name, files and least percentage of each promise."""
    return {
        "enclave": ([f"{ROOT}/enclave/*"], 100.0),
        "pure core": (pure_core(), 100.0),
        "everything": ([f"{ROOT}/*"], OVERALL_FLOOR),
    }


def main() -> int:
    """Print one line for each promise, and what is missing where one is broken; return 1 then."""
    data = Coverage(config_file=str(ROOT / "pyproject.toml"))
    data.load()
    is_kept = True
    for name, (files, floor) in groups().items():
        report = io.StringIO()
        percent = data.report(include=list(files), file=report)
        print(f"coverage of {name}: {percent:.2f} %, of at least {floor:g} %")  # noqa: T201
        if percent < floor:
            print(report.getvalue())  # noqa: T201
            is_kept = False
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
