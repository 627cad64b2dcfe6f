"""The Debian packages that make the virtual machine, by what they are for. Why each suite: docs/virtual-machine.md."""

from __future__ import annotations

from typing import Final

BASE_SUITE: Final = "bookworm"
"""Debian 12, whose Python 3.11 is that of the enclave images; QEMU is built against its libraries."""

NEWER_SUITE: Final = "trixie"
"""Debian 13: the first with a QEMU that knows Nitro Enclaves (10.0), and a kernel with the NSM driver in its cloud
flavour."""

NEWEST_SUITE: Final = "forky"
"""The suite that has vhost-device-vsock."""

SUITES: Final = (BASE_SUITE, NEWER_SUITE, NEWEST_SUITE)

QEMU_SOURCE: Final = "qemu"
SOURCE_SUITE: Final = NEWER_SUITE

KERNEL_META_PACKAGE: Final = "linux-image-cloud-amd64"
"""Depends on the kernel itself, whose name has its version in it."""

FIRMWARE: Final = ("qemu-system-data", "seabios")
VSOCK_BACK_END: Final = "vhost-device-vsock"

QEMU_LIBRARIES: Final = (
    "libblkid1",
    "libcbor0.8",
    "libfdt1",
    "libffi8",
    "libglib2.0-0",
    "libgmp10",
    "libgnutls30",
    "libhogweed6",
    "libidn2-0",
    "libmount1",
    "libnettle8",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpixman-1-0",
    "libselinux1",
    "libtasn1-6",
    "libunistring2",
    "zlib1g",
)

BUILD: Final = (
    "libblkid-dev",
    "libcbor-dev",
    "libfdt-dev",
    "libffi-dev",
    "libglib2.0-dev",
    "libglib2.0-dev-bin",
    "libgmp-dev",
    "libgnutls28-dev",
    "libidn2-dev",
    "libmount-dev",
    "libp11-kit-dev",
    "libpcre2-dev",
    "libpixman-1-dev",
    "libpkgconf3",
    "libselinux1-dev",
    "libsepol-dev",
    "libsepol2",
    "libtasn1-6-dev",
    "nettle-dev",
    "pkgconf",
    "pkgconf-bin",
    "zlib1g-dev",
)
"""To compile QEMU; the compiler and the C library's headers are those of the machine."""

GUEST: Final = (
    "busybox-static",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)
"""What the image consists of besides the kernel, the wheels and the program."""
