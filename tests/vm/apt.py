"""Debian packages by name through apt-get, with state of its own: the machine's is read and never touched."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.vm.packages import SOURCE_SUITE, SUITES

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ETC: Final = Path("/etc/apt")
_MIRROR: Final = re.compile(r"^\s*(?:URIs:|deb\s(?:\[[^]]*\])?)\s*(https?://\S+)", re.MULTILINE)
_SECURITY: Final = re.compile(r"security/?$")
_TIMEOUT_S: Final = 900


class AptError(Exception):
    """What cannot be fetched, and why; a few lines."""


def read_mirror(etc: Path = _ETC) -> str:
    """Return the address of the Debian mirror that this machine is configured for.

    Raises:
        AptError: there is none.
    """
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    files += sorted((etc / "sources.list.d").glob("*.sources"))
    for path in files:
        if path.is_file():
            found = [uri for uri in _MIRROR.findall(path.read_text()) if "debian" in uri and not _SECURITY.search(uri)]
            if found:
                return str(found[0])
    raise AptError(f"no mirror of Debian in {etc}")


class Apt:
    """apt-get with lists and a cache of its own."""

    def __init__(self, folder: Path, mirror: str) -> None:
        self._folder = folder
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        sources = folder / "sources.list"
        options = f"[signed-by={KEYRING}]"
        lines = [f"deb {options} {mirror} {suite} main" for suite in SUITES]
        lines.append(f"deb-src {options} {mirror} {SOURCE_SUITE} main")
        sources.write_text("\n".join(lines) + "\n")
        self._options = [
            f"-oDir::Etc::SourceList={sources}",
            "-oDir::Etc::SourceParts=/nonexistent",
            f"-oDir::State::Lists={folder / 'lists'}",
            f"-oDir::Cache={folder / 'cache'}",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=3",
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "-oAPT::Get::List-Cleanup=0",
            "-oAPT::Sandbox::User=root",  # the folder is this user's, and _apt may not enter it
            "-qq",
        ]

    def update(self) -> None:
        """Fetch the lists of packages; apt checks their signatures.

        Raises:
            AptError: what apt-get said.
        """
        self._run(["apt-get", *self._options, "update"], self._folder)

    def kernel_package(self, meta_package: str, suite: str) -> str:
        """Return the package that a kernel's meta package depends on.

        Raises:
            AptError: the suite does not have it.
        """
        shown = self._run(["apt-cache", *self._options, "show", f"{meta_package}/{suite}"], self._folder)
        match = re.search(r"^Depends: (linux-image-\S+)", shown, re.MULTILINE)
        if match is None:
            raise AptError(f"{meta_package} of {suite} depends on no kernel")
        return match[1]

    def download(self, names: Iterable[str], suite: str, target: Path) -> dict[str, Path]:
        """Download packages of a suite; apt checks their digests against the signed lists.

        Raises:
            AptError: what apt-get said.
        """
        wanted = sorted(names)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as temporary:
            self._run(["apt-get", *self._options, "download", *(f"{name}/{suite}" for name in wanted)], Path(temporary))
            found = {path.name.partition("_")[0]: path for path in Path(temporary).glob("*.deb")}
            if missing := set(wanted) - found.keys():
                raise AptError(f"{suite} did not give {', '.join(sorted(missing))}")
            return {name: path.replace(target / path.name) for name, path in found.items()}

    def download_source(self, name: str, suite: str, target: Path) -> Path:
        """Download a source package and return its upstream archive.

        Raises:
            AptError: what apt-get said.
        """
        target.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", *self._options, "source", "--download-only", "--only-source", f"{name}/{suite}"]
        self._run(command, target)
        archives = [path for path in target.glob(f"{name}_*.orig.tar.*") if path.suffix != ".asc"]
        if len(archives) != 1:
            raise AptError(f"the source package of {name} has {len(archives)} upstream archives")
        return archives[0]

    def _run(self, command: list[str], folder: Path) -> str:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            said = "\n".join(line for line in done.stderr.splitlines() if line.startswith("E:"))
            raise AptError(f"X:\n{said or done.stderr}")
        return done.stdout


def unpack(package: Path, target: Path) -> None:
    """Unpack a package's files; nothing of it is run."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "--extract", str(package), str(target)], check=True)


def version_of(package: Path) -> str:
    """Return the version of a downloaded package."""
    shown = subprocess.run(
        ["dpkg-deb", "--field", str(package), "Version"], check=True, capture_output=True, text=True
    ).stdout
    return shown.strip()


def missing_programs() -> list[str]:
    """Return the programs of Debian that are not on this machine."""
    return [name for name in ("apt-get", "apt-cache", "dpkg-deb") if shutil.which(name) is None]
