"""What is kept of each version: jobs, replies, frames, keys and signatures, as that version wrote them.

Values are JSON; bytes in them stand as {"hex": digits}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocol.cbor import is_list, is_map

FOLDER = Path(__file__).resolve().parent
PARTS = ("jobs", "replies", "requests", "results", "keys", "signatures")


def versions() -> list[str]:
    """Return the versions that something is kept of."""
    return sorted(path.name for path in FOLDER.iterdir() if (path / "jobs.json").exists())


def load(version: str, part: str) -> list[dict[str, Any]]:
    """Return the entries of a part."""
    entries: list[dict[str, Any]] = _read(json.loads((FOLDER / version / f"{part}.json").read_text()))
    return entries


def save(version: str, part: str, entries: list[dict[str, Any]]) -> None:
    """Write the entries of a part, one a line. What is there is never changed.

    Raises:
        FileExistsError: the version has this part.
    """
    folder = FOLDER / version
    folder.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(written(entry)) for entry in entries)
    with (folder / f"{part}.json").open("x") as file:
        file.write(f"[\n{lines}\n]\n")


def written(value: Any) -> Any:
    """Return a value as it stands in JSON."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if is_map(value):
        return {name: written(inner) for name, inner in value.items()}
    if is_list(value) or isinstance(value, tuple):
        return [written(inner) for inner in value]
    return value


def _read(value: Any) -> Any:
    if is_map(value):
        return bytes.fromhex(value["hex"]) if value.keys() == {"hex"} else {name: _read(v) for name, v in value.items()}
    return [_read(inner) for inner in value] if is_list(value) else value
