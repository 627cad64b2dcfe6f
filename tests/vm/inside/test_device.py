"""The security module through a real driver. These run inside the virtual machine (tests/vm/booted/test_inside.py)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.enclave import ClockSettings
from enclave.attested_clock import AttestedClock, set_system_clock
from enclave.credentials import CredentialStore
from enclave.nsm import Nsm
from enclave.nsm_codec import MAX_RANDOM_BYTES, NsmError, NsmErrorCode
from enclave.nsm_device import NSM_DEVICE_PATH, NSM_IOCTL, DevNsm
from enclave.readiness import Readiness
from enclave.selftest import check_nsm
from protocol.cbor import decode, encode
from tests.vm.documents import fields_of

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not Path(NSM_DEVICE_PATH).exists(), reason="not inside a virtual machine"),
]

FULL = 1024
CALLERS = 8
CALLS = 25
DAY_S = 86_400


@pytest.fixture
def nsm() -> Nsm:
    """Give the device."""
    return Nsm(DevNsm())


async def test_the_start_check_of_production_passes(nsm: Nsm) -> None:
    """The module answers, has measured, and draws randomness that differs."""
    facts = await check_nsm(nsm, allow_debug=False)
    assert facts.pcr0 != bytes(48)
    assert "-enc" in facts.module_id


async def test_description(nsm: Nsm) -> None:
    """Thirty-two registers, of which the first sixteen are locked before the program starts."""
    description = await nsm.describe()
    assert (description.digest, description.max_pcrs) == ("SHA384", 32)
    assert description.locked_pcrs >= frozenset(range(16))


async def test_randomness(nsm: Nsm) -> None:
    """Any number of bytes, beyond what one answer holds, and never the same twice."""
    for count in (1, MAX_RANDOM_BYTES, MAX_RANDOM_BYTES + 1, 1000):
        assert len(await nsm.random(count)) == count
    assert await nsm.random(32) != await nsm.random(32)


async def test_a_document_carries_all_three_fields_at_full_size(nsm: Nsm) -> None:
    """1,024 bytes each, as real hardware takes them: the response is not cut."""
    fields = {name: secrets.token_bytes(FULL) for name in ("user_data", "nonce", "public_key")}
    document = await nsm.attest(**fields)
    found = fields_of(document)
    assert {name: found[name] for name in fields} == fields
    assert abs(found["timestamp"] / 1000 - time.time()) < DAY_S


async def test_fields_that_are_absent_are_null(nsm: Nsm) -> None:
    """A birth document has no public key, and must say so."""
    found = fields_of(await nsm.attest(user_data=b"x", nonce=None, public_key=None))
    assert (found["user_data"], found["nonce"], found["public_key"]) == (b"x", None, None)


async def test_codes_of_errors(nsm: Nsm) -> None:
    """The driver's EMSGSIZE and the module's own codes become ours."""
    for call, code in (
        (nsm.extend_pcr(0, b"x"), NsmErrorCode.READ_ONLY_INDEX),
        (nsm.lock_pcr(0), NsmErrorCode.READ_ONLY_INDEX),
        (nsm.describe_pcr(32), NsmErrorCode.INVALID_INDEX),
        (nsm.attest(user_data=bytes(5000), nonce=None, public_key=None), NsmErrorCode.INPUT_TOO_LARGE),
    ):
        with pytest.raises(NsmError) as caught:
            await call
        assert caught.value.code == code


def test_what_is_no_request_is_an_error_of_the_module() -> None:
    """The driver passes any bytes on, and the module answers with a code."""
    response = decode(DevNsm()(encode("NoSuchRequest")))
    assert response.keys() == {"Error"}


def test_the_driver_knows_one_command_only() -> None:
    """Another number is EINVAL; the device is open to everybody, as the driver makes it."""
    assert stat.S_IMODE(Path(NSM_DEVICE_PATH).stat().st_mode) == 0o666
    device = os.open(NSM_DEVICE_PATH, os.O_RDWR)
    try:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            fcntl.ioctl(device, NSM_IOCTL + 1, bytearray(32))
    finally:
        os.close(device)
    assert caught.value.errno == errno.EINVAL


async def test_a_free_register_is_extended_locked_and_attested(nsm: Nsm) -> None:
    """New = SHA-384(old || data); a document carries it once it is locked, and then nobody extends it."""
    assert (await nsm.describe_pcr(16)).value == bytes(48)
    expected = hashlib.sha384(bytes(48) + b"data").digest()
    assert await nsm.extend_pcr(16, b"data") == expected
    assert 16 not in fields_of(await nsm.attest(user_data=None, nonce=None, public_key=None))["pcrs"]
    await nsm.lock_pcr(16)
    assert fields_of(await nsm.attest(user_data=None, nonce=None, public_key=None))["pcrs"][16] == expected
    with pytest.raises(NsmError) as caught:
        await nsm.extend_pcr(16, b"more")
    assert caught.value.code == NsmErrorCode.READ_ONLY_INDEX


def test_concurrent_callers_get_their_own_answers() -> None:
    """The driver takes one request at a time; nobody gets the answer of another."""

    def call(caller: int) -> list[bool]:
        nsm = DevNsm()
        return [_attests(nsm, b"%d-%d" % (caller, number)) for number in range(CALLS)]

    with ThreadPoolExecutor(CALLERS) as pool:
        assert all(all(answers) for answers in pool.map(call, range(CALLERS)))


def _attests(nsm: DevNsm, nonce: bytes) -> bool:
    request = encode({"Attestation": {"user_data": None, "nonce": nonce, "public_key": None}})
    document: bytes = decode(nsm(request))["Attestation"]["document"]
    return bool(fields_of(document)["nonce"] == nonce)


def test_the_kernel_draws_from_the_module() -> None:
    """The driver is a source of the kernel's randomness, too."""
    assert "nsm-hwrng" in Path("/sys/class/misc/hw_random/rng_available").read_text()
    with Path("/dev/hwrng").open("rb", buffering=0) as source:
        assert len(set(source.read(64))) > 1


async def test_the_clock_is_set_from_the_time_of_a_document() -> None:
    """A clock that is a day off comes back, and calls to KMS with it: the real setter, and the device's time."""
    elapsed_from = time.monotonic()
    right = time.time()
    try:
        set_system_clock(right - DAY_S)
        readiness = Readiness(CredentialStore(time.time))
        clock = AttestedClock(Nsm(_InHardwaresEnvelope()), ClockSettings(), time.time, set_system_clock)
        assert await clock.check(readiness)
        now = right + time.monotonic() - elapsed_from
        assert abs(time.time() - now) < 5  # QEMU tells whole seconds
        assert not readiness.is_clock_off
    finally:
        set_system_clock(right + time.monotonic() - elapsed_from)


class _InHardwaresEnvelope(DevNsm):
    """The device, its documents in the envelope of real hardware: production reads the time of no other."""

    def __call__(self, request: bytes) -> bytes:
        response = decode(super().__call__(request))
        if "Attestation" in response:
            _, unprotected, payload, _ = decode(response["Attestation"]["document"], max_depth=3)
            document = encode([bytes.fromhex("a1013822"), unprotected, payload, bytes(96)])
            response = {"Attestation": {"document": document}}
        return encode(response)


async def test_the_event_loop_turns_while_the_module_works(nsm: Nsm) -> None:
    """An ioctl blocks its thread and nothing else."""
    turns = 0
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(nsm.attest(user_data=bytes(FULL), nonce=None, public_key=None))
        while not asked.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 1
