"""Examples at the end of a help text: each command line on a line of its own, to be copied."""

from typing import Final

_VERBATIM: Final = "\b\n"
"""Has the help formatter leave the lines of a paragraph as they are."""


def examples(*commands: str, note: str = "") -> str:
    """Return the end of a help text; a long command may have line ends after backslashes."""
    title = "Examples:" if len(commands) > 1 else "Example:"
    shown = [f"  $ {command}".replace("\n", "\n    ") for command in commands]
    return (f"{note}\n\n" if note else "") + _VERBATIM + "\n".join([title, *shown])
