"""Runs the commands of a page in their order, as a reader would, and compares what they print with the page.

A `sh` block of a page is what one types; the `text` block right after it, if any, is what one sees. Values that differ
from run to run (keys, signatures, ids, times) are numbered by their first appearance, so that the page must still show
the same value in the same places.

    python -m tests.docs.session PAGE [PAGE]    runs pages and writes what they printed into them

The tutorial starts a stack of its own; the how-to pages are run against one that is there.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from local.stack_facts import StackFacts
from tests.docs.pages import DOCS, ROOT
from tests.stack.harness import Up

COMMAND_TIMEOUT_S = 240
"""Of one block, on a machine with much else to do."""

HOME = "/home/you/nitro-signer"
"""Where a page says that the reader works."""

_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_AGO = re.compile(r"\b\d+ s ago")
_VARYING = re.compile(
    r"\b\d{4}-\d\d-\d\dT[\d:.]+(?:\+00:00|Z)?"  # times
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # ids of messages
    r"|\bi-[0-9a-f]{17}-enc[0-9a-f]+"  # enclaves
    r"|\b(?:0x)?[0-9A-Fa-f]{12,}"  # keys, signatures, digests, addresses, ids of runs
    r"|\bbc1[0-9a-z]{20,}|\b1[1-9A-HJ-NP-Za-km-z]{25,33}\b"  # Bitcoin addresses
    r"|http://127\.0\.0\.1:\d+"
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of commands and the text that the page shows after it; None where it shows nothing."""

    commands: str
    shown: str | None
    start: int
    end: int
    """Where the shown text stands in the page."""


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page that are run."""
    found: list[Block] = []
    matches = list(_BLOCK.finditer(page))
    for place, match in enumerate(matches):
        if match[1] != "sh":
            continue
        after = matches[place + 1] if place + 1 < len(matches) else None
        if after is not None and after[1] == "text" and not page[match.end() : after.start()].strip():
            found.append(Block(match[2], after[2], after.start(2), after.end(2)))
        else:
            found.append(Block(match[2], None, match.end(), match.end()))
    return found


class Steady:
    """Gives each value that varies a number, in the order of their first appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> str:
        """Return the text with the numbers in place of the values, and columns that need no certain width."""
        numbered = _VARYING.sub(lambda match: f"<{self._number(match[0])}>", text)
        narrow = re.sub(r" {2,}", "  ", _AGO.sub("some seconds ago", numbered))
        return re.sub(r"^(unix://.*  (?:yes|no))  \d+", r"\1  #", narrow, flags=re.MULTILINE)  # requests at this moment

    def _number(self, value: str) -> int:
        key = value.lower().removeprefix("0x")
        return self._numbers.setdefault(key, len(self._numbers) + 1)


class Shell:
    """A bash session in a folder that looks like a clone, with nothing of this machine's settings."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._folder = folder
        for entry in ROOT.iterdir():
            if not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env={"TERM": "dumb", "COLUMNS": "120", **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, commands: str) -> str:
        """Type a block of commands; return what it prints. A command that fails fails the page."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{commands}printf '\\nended:%s.\\n' $?\n".encode())
        self._process.stdin.flush()
        printed = b""
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not (ended := re.search(rb"\nended:(\d+)\.\n\Z", printed)):
                assert selector.select(deadline - time.monotonic()), f"{commands}took too long: {printed.decode()}"
                chunk = os.read(self._process.stdout.fileno(), 65536)
                assert chunk, f"{commands}ended the shell: {printed.decode()}"
                printed += chunk
        text = printed[: ended.start()].decode().replace(str(self._folder), HOME)
        assert ended[1] == b"0", f"{commands}failed: {text}"
        return f"{text}\n" if text and not text.endswith("\n") else text

    def close(self) -> None:
        """End the session and all that it has started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(30)


def run_page(page: str, folder: Path, environ: dict[str, str]) -> list[tuple[Block, str, float]]:
    """Run the blocks of a page; return each with what it printed and the seconds that it took."""
    shell = Shell(folder, environ)
    try:
        results: list[tuple[Block, str, float]] = []
        for block in blocks(page):
            began = time.monotonic()
            printed = shell.run(block.commands)
            results.append((block, printed, time.monotonic() - began))
        return results
    finally:
        shell.close()


def stack_environ(up: Up) -> dict[str, str]:
    """Return the environment of a reader who has done the first two steps of the tutorial."""
    ours = plain_environ()
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), str(ROOT / ".venv-awscli" / "bin"), ours["PATH"]])
    return ours | {"PATH": path} | StackFacts(**up.facts).to_environ()


def plain_environ() -> dict[str, str]:
    """Return the little of this machine's environment that a shell needs."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG") if name in os.environ}


def with_outputs(page: str, printed: list[str]) -> str:
    """Return the page with what its blocks printed now."""
    for block, text in reversed(list(zip(blocks(page), printed, strict=True))):
        if block.shown is not None:
            page = page[: block.start] + text + page[block.end :]
    return page


def main() -> None:
    """Run pages and write what they printed into them."""
    paths = [Path(name).resolve() for name in sys.argv[1:]]
    assert all(path.is_relative_to(DOCS) for path in paths), "pages below docs/"
    up = None
    with tempfile.TemporaryDirectory() as state:
        for path in paths:
            environ = plain_environ()
            if path.parent.name == "howto":
                up = up or Up(Path(state))
                environ = stack_environ(up)
            page = path.read_text()
            with tempfile.TemporaryDirectory() as folder:
                results = run_page(page, Path(folder), environ)
            for block, _, took_s in results:
                print(f"{took_s:6.1f} s  {block.commands.splitlines()[0]}")  # noqa: T201 - a program for people
            path.write_text(with_outputs(page, [printed for _, printed, _ in results]))
        if up is not None:
            up.stop()


if __name__ == "__main__":
    main()
