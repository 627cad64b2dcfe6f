"""The small ramdisks of an image: boot (init, busybox, kernel modules) and start (configuration and command)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.vm import cpio
from tests.vm.modules import ENCLAVE_MODULES, find_modules, load_order
from tests.vm.ramdisks import PYTHON, SITE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.vm.cache import Cache

ENCLAVE_COMMAND: Final = f"/{PYTHON} -m enclave /etc/nitro-signer/enclave.toml"

_INIT: Final = """\
#!/bin/busybox sh
# PID 1 until the program of the image takes its place.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
{background}exec /bin/busybox sh /start
"""

_KEEP_TIME: Final = """\
# The time of emulated instructions falls behind on a busy machine: take that of the host. And tell what the whole
# machine uses, for whoever watches the console; on real hardware nobody can.
(while :; do
  /bin/busybox hwclock --hctosys --utc
  /bin/busybox grep MemAvailable /proc/meminfo
  /bin/busybox sleep 0.5
done) &
"""

_START: Final = """\
# The variables are those of deploy/enclave/Dockerfile.
export PATH=/usr/bin:/bin PYTHONPATH=/{site} PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
exec {command}
"""


def boot_ramdisk(cache: Cache, modules: Sequence[str] = ENCLAVE_MODULES, *, keeps_time: bool = True) -> bytes:
    """Return init, busybox and the kernel modules."""
    init = _INIT.format(background=_KEEP_TIME if keeps_time else "")
    ordered = load_order(modules, find_modules(cache.kernel))
    return cpio.archive(
        [
            *(cpio.folder(name) for name in ("proc", "sys", "dev", "tmp", "run")),
            cpio.file("init", init.encode(), is_program=True),
            cpio.file("bin/busybox", (cache.guest / "bin" / "busybox").read_bytes(), is_program=True),
            *(cpio.file(f"modules/{name}.ko", content) for name, content in ordered),
            cpio.file("modules/order", "".join(f"{name}.ko\n" for name, _ in ordered).encode()),
        ]
    )


def start_ramdisk(files: Mapping[str, bytes], command: str = ENCLAVE_COMMAND) -> bytes:
    """Return further files by name, and the command that becomes PID 1."""
    start = cpio.file("start", _START.format(site=SITE, command=command).encode())
    return cpio.archive([start, *(cpio.file(name, content) for name, content in files.items())])
