"""/dev/nsm: one ioctl that carries a CBOR request in and a CBOR response out. Blocks; see `enclave.nsm` for async use.

Sources: linux include/uapi/linux/nsm.h and drivers/misc/nsm.c. The driver serves one request at a time, waits up to
120 s for the hypervisor, writes the response's length back, and cuts a response that does not fit without saying so.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from enclave.nsm_codec import NsmError, NsmErrorCode
from protocol.attestation import AWS_NITRO_ROOT_G1, TrustRoot

NSM_DEVICE_PATH: Final = "/dev/nsm"
NSM_IOCTL: Final = 0xC0200A00
"""_IOWR(0x0A, 0, struct nsm_raw) on x86_64 and aarch64."""

MAX_REQUEST_BYTES: Final = 0x1000
"""NSM_REQUEST_MAX_SIZE; the driver answers EMSGSIZE above it."""

MAX_RESPONSE_BYTES: Final = 0x3000
"""NSM_RESPONSE_MAX_SIZE."""

_NSM_RAW: Final = struct.Struct("=QQQQ")  # request address, request length, response address, response length

Ioctl: TypeAlias = Callable[[int, int, bytearray, bool], int]
"""`fcntl.ioctl`: file descriptor, request number, argument, and whether the kernel may write into the argument."""


class DevNsm:
    """The Nitro Secure Module of the enclave that this process runs in. It brings the root of AWS's hardware.

    The device is opened for each request: that costs microseconds against the module's milliseconds, and leaves
    nothing open across a fork.
    """

    def __init__(self, path: str = NSM_DEVICE_PATH, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._path = path
        self._ioctl = ioctl

    @property
    def trust_root(self) -> TrustRoot:
        """The root of AWS's hardware."""
        return AWS_NITRO_ROOT_G1

    def __call__(self, request: bytes) -> bytes:
        """Return the response to a request. Blocks, for milliseconds normally and for two minutes at worst.

        Raises:
            NsmError: UNAVAILABLE, INPUT_TOO_LARGE, BUFFER_TOO_SMALL (the response was cut) or INTERNAL_ERROR.
        """
        try:
            device = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            text = f"{self._path} cannot be opened: {error.strerror}"
            raise NsmError(NsmErrorCode.UNAVAILABLE, text) from error
        try:
            return self._exchange(device, request)
        finally:
            os.close(device)

    def _exchange(self, device: int, request: bytes) -> bytes:
        request_buffer = ctypes.create_string_buffer(request, len(request))
        response_buffer = ctypes.create_string_buffer(MAX_RESPONSE_BYTES)
        raw = bytearray(
            _NSM_RAW.pack(
                ctypes.addressof(request_buffer), len(request), ctypes.addressof(response_buffer), MAX_RESPONSE_BYTES
            )
        )
        try:
            self._ioctl(device, NSM_IOCTL, raw, True)  # noqa: FBT003 - the signature is the standard library's
            length: int = _NSM_RAW.unpack(raw)[3]
            if length >= MAX_RESPONSE_BYTES:
                # A response that fills the buffer to the last byte looks like one that was cut, and none is that long.
                raise NsmError(NsmErrorCode.BUFFER_TOO_SMALL, f"a response of {MAX_RESPONSE_BYTES} bytes or more")
            return ctypes.string_at(response_buffer, length)
        except OSError as error:
            # The two cases of nsm-api's nsm_process_request (src/driver/mod.rs).
            code = NsmErrorCode.INPUT_TOO_LARGE if error.errno == errno.EMSGSIZE else NsmErrorCode.INTERNAL_ERROR
            raise NsmError(code, f"ioctl: {error.strerror}") from error
        finally:
            ctypes.memset(response_buffer, 0, MAX_RESPONSE_BYTES)  # it may hold randomness that becomes a key
