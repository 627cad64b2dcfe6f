"""The large ramdisks of an image: packages (C library, Python and the locked wheels, about 100 MB), and program.

All bytecode is compiled ahead by the guest's own Python: without it, the first import alone would take minutes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.vm import cpio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.vm.cache import Cache

ROOT: Final = Path(__file__).resolve().parents[2]
REQUIREMENTS: Final = ROOT / "deploy" / "enclave" / "requirements.lock"
MEASURED_PACKAGES: Final = ("config", "enclave", "protocol")
SITE: Final = "opt/enclave"
PYTHON: Final = "usr/bin/python3.11"

_VERSION: Final = "3.11"
_LIBRARY: Final = f"usr/lib/python{_VERSION}"
_ARCH: Final = "x86_64-linux-gnu"
_LOADER: Final = "lib64/ld-linux-x86-64.so.2"
_LEFT_OUT: Final = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo")
_BOTOCORE_SERVICE: Final = "kms"  # as in deploy/enclave/Dockerfile
_NEWEST_GLIBC: Final = 36  # of the guest: 2.36
_OLDEST_GLIBC: Final = 17


def packages_ramdisk(cache: Cache, *, requirements: Path = REQUIREMENTS) -> bytes:
    """Return the C library, Python and the wheels of a lock file; from the cache when it has been made before."""
    manifest = cache.read_manifest()
    digest = hashlib.sha256()
    for part in (Path(__file__).read_bytes(), Path(cpio.__file__).read_bytes(), requirements.read_bytes()):
        digest.update(hashlib.sha256(part).digest())
    digest.update(repr(sorted(manifest.files.items()) if manifest else None).encode())
    kept = cache.ramdisks / f"packages-{digest.hexdigest()[:32]}.cpio"
    if not kept.exists():
        cache.ramdisks.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(make_packages_ramdisk(cache, requirements))
        temporary.replace(kept)
    return kept.read_bytes()


def make_packages_ramdisk(cache: Cache, requirements: Path = REQUIREMENTS) -> bytes:
    """Return the same, made anew."""
    with tempfile.TemporaryDirectory(prefix="nitro-signer-vm-") as folder:
        root = Path(folder)
        site = root / SITE
        _install_wheels(requirements, site)
        data = site / "botocore" / "data"
        for service in data.iterdir() if data.is_dir() else ():
            if service.is_dir() and service.name != _BOTOCORE_SERVICE:
                shutil.rmtree(service)
        shutil.rmtree(site / "bin", ignore_errors=True)
        library = root / _LIBRARY
        shutil.copytree(cache.guest / _LIBRARY, library, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        _compile(cache, root, (_LIBRARY, SITE))
        return cpio.archive([*cpio.tree(root), *_system_files(cache.guest)])


def program_ramdisk(cache: Cache, packages: Iterable[str] = MEASURED_PACKAGES, *, source: Path = ROOT) -> bytes:
    """Return packages of this project as they lie in a checkout, with their bytecode."""
    with tempfile.TemporaryDirectory(prefix="nitro-signer-vm-") as folder:
        root = Path(folder)
        for name in packages:
            shutil.copytree(source / name, root / SITE / name, ignore=shutil.ignore_patterns("__pycache__"))
        _compile(cache, root, (SITE,))
        return cpio.archive(cpio.tree(root))


def _system_files(guest: Path) -> Iterable[cpio.Entry]:
    yield cpio.file(PYTHON, (guest / PYTHON).read_bytes(), is_program=True)
    yield cpio.file(_LOADER, (guest / _LOADER).read_bytes(), is_program=True)
    for library in (Path("lib") / _ARCH, Path("usr/lib") / _ARCH):
        for path in sorted((guest / library).glob("*.so*")):
            yield cpio.file((library / path.name).as_posix(), path.read_bytes(), is_program=True)
    yield from cpio.tree(guest / "usr/lib" / _ARCH / "ossl-modules", f"usr/lib/{_ARCH}/ossl-modules/")


def _install_wheels(requirements: Path, site: Path) -> None:
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-compile", "--no-deps", "--require-hashes", "--only-binary=:all:", "--target", str(site)]
    command += ["--python-version", _VERSION, "--implementation", "cp"]
    command += [part for tag in (*tags, "manylinux2014_x86_64") for part in ("--platform", tag)]
    command += [part for abi in ("cp311", "abi3", "none") for part in ("--abi", abi)]
    subprocess.run([*command, "--requirement", str(requirements)], check=True)


def _compile(cache: Cache, root: Path, folders: Iterable[str]) -> None:
    """Compile with the guest's Python, which runs on any Linux beside its own C library.

    `unchecked-hash` bytecode has no times; the hash seed decides the order of sets in it.
    """
    guest = cache.guest
    libraries = f"{guest / 'lib' / _ARCH}:{guest / 'usr/lib' / _ARCH}"
    python = [str(guest / _LOADER), "--library-path", libraries, str(guest / PYTHON), "-S"]
    command = [*python, "-m", "compileall", "-q", "-s", str(root), "-p", "/", "--invalidation-mode", "unchecked-hash"]
    environ = {"PYTHONHOME": str(guest / "usr"), "PYTHONHASHSEED": "0", "PATH": os.defpath}
    subprocess.run([*command, *(str(root / folder) for folder in folders)], check=True, env=environ)
