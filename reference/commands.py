"""Every command, from the same objects that print `--help`."""

from collections.abc import Iterator
from typing import Any, Final

import typer

from local.cli import app as local_app
from reference.markdown import code, table
from workers.cli import app as signer_app

_INTRODUCTION: Final = """\
# Every command

What `--help` says, of each command. [Commands for jobs](../commands.md) shows the most used of them at work.

"""


def commands_page() -> str:
    """Return the page."""
    parts = [
        *_tree(typer.main.get_command(signer_app), "nitro-signer"),
        *_tree(typer.main.get_command(local_app), "nitro-local"),
    ]
    return _INTRODUCTION + "\n".join(parts)


def _tree(command: Any, name: str) -> Iterator[str]:
    """Yield the part of a command, or those of the commands below it. Click publishes no types for this."""
    below = getattr(command, "commands", None)
    if below is None:
        yield _part(command, name)
        return
    for word in below:
        yield from _tree(below[word], f"{name} {word}")


def _part(command: Any, name: str) -> str:
    context = command.context_class(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"## {name}", "", _paragraphs(command.help or ""), "", "```text", " ".join(usage.split()), "```", ""]
    records = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    if records:
        lines.append(table(("argument or option", "meaning"), ((code(use), text) for use, text in records)))
    if command.epilog:
        note, _, examples = command.epilog.rpartition("\b\n")
        if note.strip():
            lines += [_paragraphs(note.strip()), ""]
        shown = [line.strip().removeprefix("$ ") for line in examples.splitlines()[1:]]  # the first one is a title
        lines += ["```text", *shown, "```", ""]
    return "\n".join(lines)


def _paragraphs(text: str) -> str:
    """Return help as text that Markdown does not take for markup."""
    shown = text.replace("<", "&lt;").replace("*", "\\*")
    return "\n\n".join(" ".join(part.split()) for part in shown.split("\n\n"))
