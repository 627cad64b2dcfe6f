"""Prints a table for people: aligned columns, a header, nothing that could move a terminal's cursor."""

from collections.abc import Sequence


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below a header; the last column is not padded."""
    cells = [list(header), *([_plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(header))]
    for row in cells:
        padded = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        print("  ".join([*padded, row[-1]]))


def _plain(text: str) -> str:
    return text if text.isprintable() else ascii(text)
