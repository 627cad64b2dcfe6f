"""Builds the QEMU of the virtual machine: Debian's own binaries are made without libcbor, so they have no enclave.

The compiler and the C library's headers are the machine's; all other headers and libraries are unpacked packages, so
nothing has to be installed. Of QEMU only what the two machines need is built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REQUIREMENTS: Final = Path(__file__).resolve().parents[2] / "requirements-qemu.lock"
BINARY: Final = "qemu-system-x86_64"
_ARCH: Final = "x86_64-linux-gnu"
_DEVICES: Final = (
    "FW_CFG_DMA",
    "MICROVM",
    "NITRO_ENCLAVE",
    "Q35",
    "VHOST_USER_VSOCK",
    "VIRTIO_MMIO",
    "VIRTIO_NSM",
    "VIRTIO_PCI",
)
_OPTIONS: Final = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "--with-devices-x86_64=nitro-signer",
    "--enable-system",
    "--enable-tcg",
    "--enable-gnutls",  # the machine type verifies signed images with it
    "--enable-libcbor",
    "--enable-vhost-user",
    "--enable-fdt=system",
    "--disable-tools",
    "--disable-docs",
    "--disable-werror",
    "--disable-install-blobs",
    "--disable-download",
)


class BuildError(Exception):
    """A step of the build failed; names the log."""


def build_qemu(archive: Path, sysroot: Path, work: Path, target: Path) -> None:
    """Build from the upstream archive of Debian's source package and put the stripped program at `target`.

    Raises:
        BuildError: names the log, which stays.
    """
    _relative_links(sysroot)
    source = _unpack(archive, work)
    devices = source / "configs" / "devices" / "x86_64-softmmu" / "nitro-signer.mak"
    devices.write_text("".join(f"CONFIG_{name}=y\n" for name in _DEVICES))
    _leave_out_firmware(source)
    tools = _make_tools(work)
    build = work / "build"
    build.mkdir()
    environ = _environ(sysroot)
    configure = [str(source / "configure"), f"--python={tools / 'python'}", f"--ninja={tools / 'ninja'}", *_OPTIONS]
    # pkgconf needs its library; the compiler of the machine has its own
    pkgconf = {"LD_LIBRARY_PATH": str(sysroot / "usr" / "lib" / _ARCH)}
    _run(configure, build, {**environ, **pkgconf}, work / "configure.log")
    _run([str(tools / "ninja"), BINARY], build, environ, work / "ninja.log")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(build / BINARY, target)
    if strip := shutil.which("strip"):
        subprocess.run([strip, str(target)], check=True)


def _unpack(archive: Path, work: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(work / "source", filter="data")
    (source,) = (work / "source").iterdir()
    return source


def _leave_out_firmware(source: Path) -> None:
    """Have the build not look for firmware that Debian's source package does not have; Debian patches the same line."""
    path = source / "pc-bios" / "meson.build"
    text = path.read_text()
    if "\nif unpack_edk2_blobs\n" not in text:
        raise BuildError(f"{path} is not as expected: another version of QEMU?")
    path.write_text(text.replace("\nif unpack_edk2_blobs\n", "\nif false\n"))


def _make_tools(work: Path) -> Path:
    """Make an environment with meson and ninja, which QEMU's own archive does not bring in Debian's form."""
    environment = work / "tools"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    tools = environment / "bin"
    command = [str(tools / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement", str(REQUIREMENTS)]
    subprocess.run(command, check=True)
    return tools


def _environ(sysroot: Path) -> dict[str, str]:
    folders = [sysroot / "usr" / "lib" / _ARCH, sysroot / "lib" / _ARCH]
    return {
        **os.environ,
        "PKG_CONFIG": str(sysroot / "usr" / "bin" / "pkgconf"),
        "PKG_CONFIG_SYSROOT_DIR": str(sysroot),
        "PKG_CONFIG_LIBDIR": f"{sysroot / 'usr/lib' / _ARCH / 'pkgconfig'}:{sysroot / 'usr/share/pkgconfig'}",
        "CFLAGS": f"-I{sysroot / 'usr/include'} -I{sysroot / 'usr/include' / _ARCH}",
        "LDFLAGS": " ".join(f"-L{folder} -Wl,-rpath-link,{folder}" for folder in folders),
    }


def _relative_links(sysroot: Path) -> None:
    """Have the links of -dev packages lead to the unpacked libraries instead of the machine's."""
    for path in list(sysroot.rglob("*.so")):
        target = path.readlink() if path.is_symlink() else None
        if target is not None and target.is_absolute():
            path.unlink()
            path.symlink_to(os.path.relpath(sysroot / target.relative_to("/"), path.parent))


def _run(command: Sequence[str], folder: Path, environ: Mapping[str, str], log: Path) -> None:
    with log.open("wb") as out:
        code = subprocess.run(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
        ).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{Path(command[0]).name} ended with code {code}: see {log}\n{tail}")
