"""/dev/nsm, against an ioctl that speaks the exact bytes. Every byte string is written out by hand from the NSM API."""

from __future__ import annotations

import ctypes
import errno
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave import nsm_codec
from enclave.nsm import Nsm
from enclave.nsm_codec import NsmDescription, NsmError, NsmErrorCode, PcrState
from enclave.nsm_device import DevNsm
from protocol.attestation import AWS_NITRO_ROOT_G1

if TYPE_CHECKING:
    from collections.abc import Callable

PCR = bytes(range(48))
TEXT = str.encode


class FakeIoctl:
    """The driver's side of the ioctl: reads `struct nsm_raw`, copies the response and writes its length back."""

    def __init__(self, *responses: bytes | OSError) -> None:
        self.requests: list[bytes] = []
        self._responses = list(responses)

    def __call__(self, device: int, number: int, raw: bytearray, mutate: bool, /) -> int:  # noqa: FBT001 - fcntl's own
        """Do as drivers/misc/nsm.c does."""
        assert device > 2
        assert number == 0xC0200A00
        assert mutate is True
        assert len(raw) == 32
        request_address, request_length, response_address, capacity = struct.unpack("=QQQQ", raw)
        assert capacity == 0x3000
        self.requests.append(ctypes.string_at(request_address, request_length))
        response = self._responses.pop(0)
        if isinstance(response, OSError):
            raise response
        kept = response[:capacity]  # drivers/misc/nsm.c cuts without an error
        ctypes.memmove(response_address, kept, len(kept))
        raw[24:32] = struct.pack("=Q", len(kept))
        return 0


@pytest.fixture
def device_path(tmp_path: Path) -> str:
    """Return the path of a file that can be opened like a device."""
    path = tmp_path / "nsm"
    path.touch()
    return str(path)


async def ask(path: str, method: Callable[[Nsm], object], response: bytes) -> tuple[object, bytes]:
    """Return what a method gives for a response, and the request that it made."""
    ioctl = FakeIoctl(response)
    nsm = Nsm(DevNsm(path, ioctl=ioctl))
    try:
        result = await method(nsm)  # type: ignore[misc]  # each method of the table is a coroutine function
    finally:
        nsm.close()
    return result, ioctl.requests[0]


async def test_describe_nsm(device_path: str) -> None:
    """The request is a bare text; the description's fields may come in any order."""
    response = (
        b"\xa1\x6bDescribeNSM\xa7"
        b"\x66digest\x66SHA384"
        b"\x6dversion_major\x01\x6dversion_minor\x02\x6dversion_patch\x03"
        b"\x69module_id\x67i-0-enc"
        b"\x68max_pcrs\x18\x20"
        b"\x6blocked_pcrs\x83\x00\x01\x10"
    )
    result, request = await ask(device_path, lambda nsm: nsm.describe(), response)
    assert request == b"\x6bDescribeNSM"
    assert result == NsmDescription(
        version=(1, 2, 3), module_id="i-0-enc", max_pcrs=32, locked_pcrs=frozenset({0, 1, 16}), digest="SHA384"
    )


async def test_describe_pcr(device_path: str) -> None:
    """The request names the index, the response has lock and value."""
    response = b"\xa1\x6bDescribePCR\xa2\x64lock\xf5\x64data\x58\x30" + PCR
    result, request = await ask(device_path, lambda nsm: nsm.describe_pcr(16), response)
    assert request == b"\xa1\x6bDescribePCR\xa1\x65index\x10"
    assert result == PcrState(is_locked=True, value=PCR)


async def test_extend_pcr(device_path: str) -> None:
    """The data go as they are; the new value comes back."""
    result, request = await ask(
        device_path, lambda nsm: nsm.extend_pcr(17, b"\x01\x02"), b"\xa1\x69ExtendPCR\xa1\x64data\x58\x30" + PCR
    )
    assert request == b"\xa1\x69ExtendPCR\xa2\x65index\x11\x64data\x42\x01\x02"
    assert result == PCR


async def test_lock_pcr(device_path: str) -> None:
    """The response is a bare text."""
    result, request = await ask(device_path, lambda nsm: nsm.lock_pcr(16), b"\x67LockPCR")
    assert request == b"\xa1\x67LockPCR\xa1\x65index\x10"
    assert result is None


async def test_lock_pcrs(device_path: str) -> None:
    """The range is the end of what is locked."""
    result, request = await ask(device_path, lambda nsm: nsm.lock_pcrs(20), b"\x68LockPCRs")
    assert request == b"\xa1\x68LockPCRs\xa1\x65range\x14"
    assert result is None


async def test_attestation(device_path: str) -> None:
    """Fields that are not given are null, in the order of the API."""
    result, request = await ask(
        device_path,
        lambda nsm: nsm.attest(user_data=b"\xaa", nonce=None, public_key=b"\xbb\xcc"),
        b"\xa1\x6bAttestation\xa1\x68document\x43doc",
    )
    assert request == b"\xa1\x6bAttestation\xa3\x69user_data\x41\xaa\x65nonce\xf6\x6apublic_key\x42\xbb\xcc"
    assert result == b"doc"


async def test_random_asks_as_often_as_it_must(device_path: str) -> None:
    """Any number of bytes comes together from responses of 1 to 256 bytes; what is left over is dropped."""

    def response(length: int, fill: bytes) -> bytes:
        return b"\xa1\x69GetRandom\xa1\x66random\x59" + length.to_bytes(2, "big") + fill * length

    ioctl = FakeIoctl(response(256, b"a"), response(256, b"b"), response(1, b"c"), response(256, b"d"))
    nsm = Nsm(DevNsm(device_path, ioctl=ioctl))
    assert await nsm.random(0) == b""
    assert await nsm.random(600) == b"a" * 256 + b"b" * 256 + b"c" + b"d" * 87
    assert ioctl.requests == [bytes.fromhex("6947657452616e646f6d")] * 4
    nsm.close()


async def test_an_indefinite_response_is_read(device_path: str) -> None:
    """A module that writes its maps with indefinite length, as current ones do in documents, is understood."""
    response = b"\xbf\x69GetRandom\xbf\x66random\x41\x07\xff\xff"
    result, _ = await ask(device_path, lambda nsm: nsm.random(1), response)
    assert result == b"\x07"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("InvalidArgument", NsmErrorCode.INVALID_ARGUMENT),
        ("InvalidIndex", NsmErrorCode.INVALID_INDEX),
        ("InvalidResponse", NsmErrorCode.INVALID_RESPONSE),
        ("ReadOnlyIndex", NsmErrorCode.READ_ONLY_INDEX),
        ("InvalidOperation", NsmErrorCode.INVALID_OPERATION),
        ("BufferTooSmall", NsmErrorCode.BUFFER_TOO_SMALL),
        ("InputTooLarge", NsmErrorCode.INPUT_TOO_LARGE),
        ("InternalError", NsmErrorCode.INTERNAL_ERROR),
    ],
)
async def test_each_error_code_of_the_module_is_known(device_path: str, text: str, code: NsmErrorCode) -> None:
    """An error response becomes an `NsmError` with its code."""
    response = b"\xa1\x65Error" + bytes([0x60 + len(text)]) + text.encode()
    with pytest.raises(NsmError, match="refused LockPCR") as caught:
        await ask(device_path, lambda nsm: nsm.lock_pcr(0), response)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xa1\x6bDescribePCR", id="cut"),
        pytest.param(b"\x67LockPCR\x00", id="a byte more"),
        pytest.param(b"\x67LockPCR", id="a text of another request"),
        pytest.param(b"\xa1\x69GetRandom\xa1\x66random\x41\x07", id="a map of another request"),
        pytest.param(b"\xa0", id="empty map"),
        pytest.param(b"\x80", id="array"),
        pytest.param(b"\xa2\x6bDescribePCR\xa0\x65Error\x60", id="two entries"),
        pytest.param(b"\xa1\x65Error\x67Success", id="error of success"),
        pytest.param(b"\xa1\x65Error\x68TimedOut", id="error that is only ours"),
        pytest.param(b"\xa1\x65Error\xa0", id="error that is a map"),
        pytest.param(b"\x6bDescribePCR", id="no body"),
        pytest.param(b"\xa1\x6bDescribePCR\x80", id="body is an array"),
        pytest.param(b"\xa1\x6bDescribePCR\xa1\x64lock\xf5", id="no data"),
        pytest.param(b"\xa1\x6bDescribePCR\xa2\x64lock\x01\x64data\x58\x30" + PCR, id="lock is a number"),
        pytest.param(b"\xa1\x6bDescribePCR\xa2\x64lock\xf4\x64data\x58\x2f" + PCR[:47], id="short PCR"),
        pytest.param(b"\xa1\x6bDescribePCR\xa2\x64lock\xf4\x64data\x61x", id="PCR is a text"),
    ],
)
async def test_a_response_that_is_no_answer_is_refused(device_path: str, response: bytes) -> None:
    """Whatever is not the response to this request fails as INVALID_RESPONSE."""
    with pytest.raises(NsmError) as caught:
        await ask(device_path, lambda nsm: nsm.describe_pcr(0), response)
    assert caught.value.code == NsmErrorCode.INVALID_RESPONSE


@pytest.mark.parametrize(
    "description",
    [
        pytest.param(b"\x69module_id\x01\x66digest\x60", id="module_id"),
        pytest.param(b"\x69module_id\x60\x66digest\x01", id="digest"),
        pytest.param(b"\x69module_id\x60\x66digest\x60\x6blocked_pcrs\xa0", id="locked_pcrs"),
        pytest.param(b"\x69module_id\x60\x66digest\x60\x6blocked_pcrs\x80\x6dversion_major\xf5", id="version"),
        pytest.param(b"\x69module_id\x60\x66digest\x60\x6blocked_pcrs\x80\x6dversion_major\x20", id="negative"),
    ],
)
def test_a_description_with_a_wrong_field_is_refused(description: bytes) -> None:
    """Each field of the description has its type."""
    with pytest.raises(NsmError) as caught:
        nsm_codec.describe_nsm().read(b"\xa1\x6bDescribeNSM\xbf" + description + b"\xff")
    assert caught.value.code == NsmErrorCode.INVALID_RESPONSE


@pytest.mark.parametrize(("body", "length"), [(b"\x40", 0), (b"\x59\x01\x01" + bytes(257), 257)])
def test_random_bytes_have_the_modules_lengths(body: bytes, length: int) -> None:
    """No bytes would be asked for without end; more than 256 is not this module."""
    with pytest.raises(NsmError, match=f"{length} random bytes"):
        nsm_codec.get_random().read(b"\xa1\x69GetRandom\xa1\x66random" + body)


def test_a_body_where_none_belongs_is_refused() -> None:
    """LockPCR is answered by a bare text."""
    with pytest.raises(NsmError, match="a body where none belongs"):
        nsm_codec.lock_pcr(1).read(b"\xa1\x67LockPCR\xa0")


@pytest.mark.parametrize("length", [0x3000, 0x3001, 0x4000])
def test_a_cut_response_is_noticed(device_path: str, length: int) -> None:
    """The driver cuts what does not fit and says nothing; a full buffer is taken for that."""
    device = DevNsm(device_path, ioctl=FakeIoctl(bytes(length)))
    with pytest.raises(NsmError) as caught:
        device(b"\x69GetRandom")
    assert caught.value.code == NsmErrorCode.BUFFER_TOO_SMALL


def test_the_longest_response_arrives_whole(device_path: str) -> None:
    """One byte less than the buffer is a response."""
    response = bytes(range(256)) * 48
    assert DevNsm(device_path, ioctl=FakeIoctl(response[:-1]))(b"\x69GetRandom") == response[:-1]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EMSGSIZE, NsmErrorCode.INPUT_TOO_LARGE),
        (errno.EINVAL, NsmErrorCode.INTERNAL_ERROR),
        (errno.EFAULT, NsmErrorCode.INTERNAL_ERROR),
        (errno.ETIMEDOUT, NsmErrorCode.INTERNAL_ERROR),
    ],
)
async def test_each_errno_of_the_driver_has_its_code(device_path: str, number: int, code: NsmErrorCode) -> None:
    """EMSGSIZE is a request over 4096 bytes; all else is internal, also the one that Python calls TimeoutError."""
    nsm = Nsm(DevNsm(device_path, ioctl=FakeIoctl(OSError(number, "told by the driver"))))
    with pytest.raises(NsmError, match="told by the driver") as caught:
        await nsm.describe()
    assert caught.value.code == code
    nsm.close()


async def test_no_device_is_unavailable(tmp_path: Path) -> None:
    """Outside an enclave there is no /dev/nsm: a code says so."""
    nsm = Nsm(DevNsm(str(tmp_path / "nothing")))
    with pytest.raises(NsmError, match="No such file") as caught:
        await nsm.describe()
    assert caught.value.code == NsmErrorCode.UNAVAILABLE
    nsm.close()


def test_the_device_is_closed_after_each_request(device_path: str) -> None:
    """Failures included, no file descriptor is left."""
    before = sorted(entry.name for entry in Path("/proc/self/fd").iterdir())
    for response in (b"\x67LockPCR", OSError(errno.EINVAL, "no")):
        device = DevNsm(device_path, ioctl=FakeIoctl(response))
        try:
            device(b"\x67LockPCR")
        except NsmError:
            continue
    assert sorted(entry.name for entry in Path("/proc/self/fd").iterdir()) == before


def test_hardware_brings_the_aws_root() -> None:
    """Production code gets its trust root from the device and from nowhere else."""
    assert Nsm(DevNsm()).trust_root == AWS_NITRO_ROOT_G1
