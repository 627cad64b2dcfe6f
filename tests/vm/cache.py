"""Where the tools of the virtual machine are kept: a folder outside the repository, and what is in it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

CACHE_VARIABLE: Final = "NITRO_SIGNER_VM_CACHE"
RECIPE: Final = 1
"""Goes up when the tools have to be fetched or built in another way; an older cache is then made anew."""

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Cache:
    """The folders below one root."""

    root: Path

    @classmethod
    def of_this_user(cls) -> Self:
        """Return the folder that `NITRO_SIGNER_VM_CACHE` names, or the one of XDG's base directories."""
        named = os.environ.get(CACHE_VARIABLE)
        if named:
            return cls(Path(named).resolve())
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(Path(base).resolve() / "nitro-signer" / "vm")

    @property
    def apt(self) -> Path:
        """Apt's own state: lists of packages, sources list."""
        return self.root / "apt"

    @property
    def debs(self) -> Path:
        """Packages as they were downloaded."""
        return self.root / "debs"

    @property
    def qemu(self) -> Path:
        """QEMU, its libraries, its firmware, and the vsock device's back end."""
        return self.root / "qemu"

    @property
    def kernel(self) -> Path:
        """The unpacked kernel package."""
        return self.root / "kernel"

    @property
    def guest(self) -> Path:
        """The unpacked packages of the guest: C library, Python, busybox."""
        return self.root / "guest"

    @property
    def work(self) -> Path:
        """Sources and objects while QEMU is built; removed afterwards."""
        return self.root / "work"

    @property
    def ramdisks(self) -> Path:
        """Ramdisks by the digest of what they are made of."""
        return self.root / "ramdisks"

    @property
    def manifest(self) -> Path:
        """Versions and checksums of everything; written last, so its presence says that the rest is whole."""
        return self.root / "manifest.json"

    def read_manifest(self) -> Manifest | None:
        """Return what is installed, or None when nothing complete of this recipe is."""
        try:
            fields = json.loads(self.manifest.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(fields, dict) or fields.get("recipe") != RECIPE:
            return None
        return Manifest(packages=fields["packages"], files=fields["files"])

    def write_manifest(self, manifest: Manifest) -> None:
        """Say that the cache is complete."""
        fields = {"recipe": RECIPE, "packages": dict(manifest.packages), "files": dict(manifest.files)}
        temporary = self.manifest.with_suffix(".tmp")
        temporary.write_text(json.dumps(fields, indent=1, sort_keys=True))
        temporary.replace(self.manifest)

    def damaged_files(self, manifest: Manifest) -> list[str]:
        """Return the files that are missing or have other bytes than when they were installed."""
        return [name for name, digest in manifest.files.items() if _digest_or_none(self.root / name) != digest]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a complete cache has."""

    packages: dict[str, str]
    """Debian package to version."""

    files: dict[str, str]
    """Path below the root to SHA-256, of every file that is run or goes into an image."""


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_or_none(path: Path) -> str | None:
    return digest_file(path) if path.is_file() else None
