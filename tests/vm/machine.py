"""The command lines of QEMU and of the vsock device's back end; each odd option has its reason beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.vm.cache import Cache

PARENT_CID: Final = 2
"""The host, as a virtual machine sees it over vhost-user; the parent of a real enclave is 3."""

_MEMORY: Final = "1G"
_INSTANCE_ID: Final = "i-0123456789abcdef0"
"""Of the parent, which real hardware measures into PCR4 and names before `-enc` in the module id."""

_COUNTED_TIME: Final = "shift=0,sleep=on,align=off"
"""The machine's time is that of its instructions, one nanosecond each.

With the host's time, a machine that gets little of a busy processor loses the interrupts by which its kernel measures
the clock, and hangs before it has booted; and every time-out inside would run while nothing else does."""
_BACK_END_BUFFER_BYTES: Final = 16384
"""With its default of 64 KiB, vhost-device-vsock 0.3.0 loses single sends of the guest above about 28,000 bytes."""


class MachineError(Exception):
    """A program of the virtual machine did not start; one line."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The sockets and logs of one guest. A Unix socket's path has at most 107 bytes."""

    folder: Path
    name: str

    @property
    def device(self) -> Path:
        """Between QEMU and the back end."""
        return self.folder / f"{self.name}.dev"

    @property
    def vsock(self) -> Path:
        """Parent to guest. The guest reaches port P of the parent at the same path with `_P` behind it."""
        return self.folder / f"{self.name}.vm"

    def parent_port(self, port: int) -> Path:
        """Where the parent has to listen for what the guest dials."""
        return self.folder / f"{self.name}.vm_{port}"

    @property
    def console(self) -> Path:
        """What kernel and program print."""
        return self.folder / f"{self.name}-console.log"

    @property
    def log(self) -> Path:
        """What the back end prints."""
        return self.folder / f"{self.name}-vsock.log"

    def remove_sockets(self) -> None:
        """Remove what a killed guest has left; the parent's own listeners stay."""
        self.device.unlink(missing_ok=True)
        self.vsock.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """How to start QEMU."""

    command: tuple[str, ...]
    environ: Mapping[str, str]


def vsock_back_end(cache: Cache, paths: Paths, cid: int) -> tuple[str, ...]:
    """Return the command of the back end of one guest's vsock device."""
    guest = f"guest-cid={cid},socket={paths.device},uds-path={paths.vsock},tx-buffer-size={_BACK_END_BUFFER_BYTES}"
    return (str(cache.qemu / "usr" / "bin" / "vhost-device-vsock"), "--vm", guest)


def enclave_machine(cache: Cache, image: Path, paths: Paths, cid: int) -> Machine:
    """Return QEMU's `nitro-enclave` with an image."""
    return _machine(
        cache,
        # without ACPI, Debian's kernel finds no virtio device on this machine
        "-M", f"nitro-enclave,acpi=on,vsock=c0,id={_INSTANCE_ID}-enc{cid:016x},parent-id={_INSTANCE_ID}",
        # more processors hang at the calibration of the clock
        "-smp", "1",
        "-chardev", f"socket,id=c0,path={paths.device}",
        "-kernel", str(image),
    )  # fmt: skip


def _machine(cache: Cache, *options: str) -> Machine:
    qemu = cache.qemu
    firmware = [part for name in ("qemu", "seabios") for part in ("-L", str(qemu / "usr" / "share" / name))]
    # KVM is not there on a CI machine, or is and does not work: emulation always does
    processor = ("-accel", "tcg,thread=single", "-icount", _COUNTED_TIME, "-cpu", "max")
    common = (*processor, "-m", _MEMORY, "-nographic", "-no-reboot")
    return Machine(
        command=(str(qemu / "bin" / "qemu-system-x86_64"), *common, *firmware, *options),
        environ={"LD_LIBRARY_PATH": str(qemu / "lib")},
    )
