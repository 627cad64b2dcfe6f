"""`python -m tests.vm.tools`: gets and builds what the virtual machine needs, once, into a folder of its own.

Safe to run again: what is whole stays. Interrupted, it begins anew.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from tests.vm import packages
from tests.vm.apt import KEYRING, Apt, AptError, missing_programs, read_mirror, unpack, version_of
from tests.vm.cache import CACHE_VARIABLE, Cache, Manifest, digest_file
from tests.vm.qemu_build import BINARY, BuildError, build_qemu

if TYPE_CHECKING:
    from pathlib import Path

EXIT_NOT_POSSIBLE: Final = 3
_NOTICE: Final = """\
Getting what the virtual machine needs, into {root}
(another folder: {variable}=…). Nothing is installed on this machine.
  download  about 165 MB: Debian's lists of packages, {count} packages, the source of QEMU, meson and ninja
  build     QEMU: about 10 minutes on two processors
  disk      about 1.2 GB meanwhile, 200 MB in the end"""
_KEPT_LIBRARIES: Final = "*.so.*"


class NotPossibleError(Exception):
    """This machine cannot have the tools; says why and what would help."""


def ensure_tools(cache: Cache) -> Manifest:
    """Return what is installed, installing it first if anything is missing or damaged.

    Raises:
        NotPossibleError, AptError, BuildError: why not.
    """
    manifest = cache.read_manifest()
    if manifest is not None:
        damaged = cache.damaged_files(manifest)
        if not damaged:
            return manifest
        _say(f"damaged, so all is fetched again: {', '.join(damaged)}")
    _check_machine()
    _say(_NOTICE.format(root=cache.root, variable=CACHE_VARIABLE, count=len(_everything())))
    began = time.monotonic()
    cache.manifest.unlink(missing_ok=True)
    for folder in (cache.debs, cache.qemu, cache.kernel, cache.guest, cache.work, cache.ramdisks):
        shutil.rmtree(folder, ignore_errors=True)
    cache.root.mkdir(parents=True, exist_ok=True)
    apt = Apt(cache.apt, read_mirror())
    _say("lists of packages …")
    apt.update()
    versions = _fetch_packages(cache, apt)
    archive = apt.download_source(packages.QEMU_SOURCE, packages.SOURCE_SUITE, cache.work)
    versions["qemu (source)"] = archive.name.removeprefix("qemu_").partition(".orig")[0]
    _say(f"building QEMU {versions['qemu (source)']} …")
    build_qemu(archive, cache.work / "sysroot", cache.work, cache.qemu / "bin" / BINARY)
    _keep_libraries(cache)
    _check_qemu(cache)
    for folder in (cache.work, cache.debs, cache.apt):
        shutil.rmtree(folder)
    files = {
        path.relative_to(cache.root).as_posix(): digest_file(path)
        for folder in (cache.qemu, cache.kernel, cache.guest)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    made = Manifest(versions, files)
    cache.write_manifest(made)
    _say(f"ready after {time.monotonic() - began:.0f} s")
    return made


def _everything() -> tuple[str, ...]:
    libraries = (*packages.BUILD, *packages.QEMU_LIBRARIES, *packages.GUEST)
    return (*libraries, *packages.FIRMWARE, packages.VSOCK_BACK_END, packages.KERNEL_META_PACKAGE)


def _check_machine() -> None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NotPossibleError("the virtual machine is built on and for Linux on x86_64 only")
    if missing := missing_programs():
        raise NotPossibleError(f"this needs a Debian machine: {', '.join(missing)} are not here")
    if not KEYRING.is_file():
        raise NotPossibleError(f"{KEYRING} is missing (package debian-archive-keyring): packages could not be checked")
    if shutil.which("cc") is None:
        raise NotPossibleError("QEMU has to be compiled: no C compiler here (Debian: gcc, libc6-dev)")


def _fetch_packages(cache: Cache, apt: Apt) -> dict[str, str]:
    """Download and unpack all binary packages; return their versions."""
    kernel = apt.kernel_package(packages.KERNEL_META_PACKAGE, packages.NEWER_SUITE)
    sysroot = cache.work / "sysroot"
    versions: dict[str, str] = {}

    def fetch(names: tuple[str, ...], suite: str, *targets: Path) -> None:
        for name, path in apt.download(names, suite, cache.debs).items():
            versions[name] = version_of(path)
            for target in targets:
                unpack(path, target)

    _say("packages …")
    fetch(packages.BUILD, packages.BASE_SUITE, sysroot)
    fetch(packages.QEMU_LIBRARIES, packages.BASE_SUITE, sysroot)
    fetch(packages.GUEST, packages.BASE_SUITE, cache.guest)
    fetch((kernel,), packages.NEWER_SUITE, cache.kernel)
    fetch(packages.FIRMWARE, packages.NEWER_SUITE, cache.qemu)
    fetch((packages.VSOCK_BACK_END,), packages.NEWEST_SUITE, cache.qemu)
    return versions


def _keep_libraries(cache: Cache) -> None:
    """Copy QEMU's libraries beside it, by the names that it asks for."""
    target = cache.qemu / "lib"
    target.mkdir(parents=True, exist_ok=True)
    with_versions = set(packages.QEMU_LIBRARIES)
    for name in sorted(with_versions):
        (deb,) = cache.debs.glob(f"{name}_*.deb")
        unpacked = cache.work / "libraries" / name
        unpack(deb, unpacked)
        for path in unpacked.rglob(_KEPT_LIBRARIES):
            if path.parent.name == "x86_64-linux-gnu":
                shutil.copy2(path, target / path.name)  # follows links: each name becomes a file


def _check_qemu(cache: Cache) -> None:
    """Ask what was built whether it has the machine; a build without libcbor would lack it silently."""
    binary = cache.qemu / "bin" / BINARY
    environ = {"LD_LIBRARY_PATH": str(cache.qemu / "lib")}
    shown = subprocess.run([str(binary), "-M", "help"], env=environ, check=True, capture_output=True, text=True).stdout
    if "nitro-enclave" not in shown:
        raise BuildError("the QEMU that was built has no machine type nitro-enclave")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Get the tools, or only say whether they are there."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.tools", description="The tools of the virtual machine.")
    parser.add_argument("--check", action="store_true", help="only say whether they are there; exit 1 if not")
    cache = Cache.of_this_user()
    if parser.parse_args().check:
        manifest = cache.read_manifest()
        is_whole = manifest is not None and not cache.damaged_files(manifest)
        _say(f"the tools of the virtual machine are {'' if is_whole else 'NOT '}in {cache.root}")
        return 0 if is_whole else 1
    try:
        manifest = ensure_tools(cache)
    except (NotPossibleError, AptError, BuildError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"vm-tools: {error}\n")
        return EXIT_NOT_POSSIBLE
    versions = manifest.packages
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("qemu (source)", "vhost-device-vsock", "libpython3.11-minimal")
    )
    _say(f"tools of the virtual machine in {cache.root}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
