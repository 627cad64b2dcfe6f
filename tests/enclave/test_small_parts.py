"""Credentials, readiness, environment, memory file, hardening, randomness and batches."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest
import structlog

from enclave import hardening
from enclave.batch import each
from enclave.credentials import AwsCredentials, CredentialStore
from enclave.environment import EnvironmentRefusedError, refuse_diverting_variables
from enclave.memory_file import MemoryFile
from enclave.random_source import KmsSeeds
from enclave.readiness import Readiness
from protocol.errors import ErrorCode, SignerError
from protocol.messages import NotReadyReason, SetCredentials
from tests.enclave.parts import Time, captured

if TYPE_CHECKING:
    from enclave.kms import KmsClient

SECRET = "a-secret-access-key"


def pushed(*, expires_at_s: int | None) -> SetCredentials:
    """Return credentials as the parent sends them."""
    return SetCredentials(
        access_key_id="AKID", secret_access_key=SECRET, session_token="session-token", expires_at_s=expires_at_s
    )


# Credentials and readiness


def test_credentials_last_until_they_expire() -> None:
    """To the second; then they are reported as expired, and the seconds left are negative."""
    time = Time(1000.0)
    store = CredentialStore(time)
    assert (store.current, store.expires_in_s) == (None, None)
    assert store.not_ready_reason is NotReadyReason.NO_CREDENTIALS
    store.replace(pushed(expires_at_s=1010))
    seen = []
    for now in (1000.0, 1009.0, 1010.0, 1020.0):
        time.now = now
        seen.append((store.expires_in_s, store.not_ready_reason))
    expired = NotReadyReason.CREDENTIALS_EXPIRED
    assert seen == [(10, None), (1, None), (0, expired), (-10, expired)]
    store.replace(pushed(expires_at_s=1030))
    assert store.expires_in_s == 10


def test_credentials_without_an_end() -> None:
    """Long-lived ones have no seconds left to report."""
    store = CredentialStore(Time())
    store.replace(pushed(expires_at_s=None))
    assert (store.expires_in_s, store.not_ready_reason) == (None, None)
    assert store.current == AwsCredentials("AKID", SECRET, "session-token")


def test_credentials_are_shown_nowhere() -> None:
    """Not in the repr of any object that holds them."""
    store = CredentialStore(Time())
    store.replace(pushed(expires_at_s=None))
    for shown in (repr(store), repr(store.current), repr(pushed(expires_at_s=1)), str(vars(store))):
        assert SECRET not in shown
        assert "session-token" not in shown


def test_the_most_lasting_reason_is_told() -> None:
    """A failed start before a clock that is off, before credentials."""
    store = CredentialStore(Time())
    readiness = Readiness(store)
    reasons = [readiness.reason]
    readiness.start_failure = NotReadyReason.DEBUG_MODE
    readiness.is_clock_off = True
    reasons.append(readiness.reason)
    readiness.start_failure = None
    reasons.append(readiness.reason)
    readiness.is_clock_off = False
    reasons.append(readiness.reason)
    store.replace(pushed(expires_at_s=None))
    reasons.append(readiness.reason)
    assert reasons == [
        NotReadyReason.STARTING,
        NotReadyReason.DEBUG_MODE,
        NotReadyReason.CLOCK_DRIFT,
        NotReadyReason.NO_CREDENTIALS,
        None,
    ]


# Environment


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ENDPOINT_URL_KMS",
        "AWS_CA_BUNDLE",
        "AWS_USE_FIPS_ENDPOINT",
        "aws_profile",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "NO_PROXY",
        "BOTO_CONFIG",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSLKEYLOGFILE",
        "OPENSSL_CONF",
        "OPENSSL_MODULES",
        "OPENSSL_ENGINES",
    ],
)
def test_a_variable_that_could_divert_calls_is_refused(name: str) -> None:
    """By its name alone, whatever it holds; the line names it."""
    with pytest.raises(EnvironmentRefusedError, match=name):
        refuse_diverting_variables(["PATH", name, "HOME"])


def test_an_ordinary_environment_passes() -> None:
    """Names that only look alike are none."""
    refuse_diverting_variables(["PATH", "HOME", "LAWS_X", "PROXY", "PYTHONPATH", "LANG"])


# Memory file


def test_a_memory_file_has_its_content_and_no_name() -> None:
    """Readable by its path while it is open, and gone after."""
    with MemoryFile("name", b"content") as file:
        assert file.path.read_bytes() == b"content"
        assert str(file.path.readlink()).startswith("/memfd:name")
        path = file.path
    assert not path.exists()


# Hardening


def run_python(code: str) -> str:
    """Run code in a process of its own and return what it prints."""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return finished.stdout.strip()


def test_no_dumps() -> None:
    """Not dumpable, and a core size of 0, as the kernel tells."""
    code = (
        "import ctypes, resource; from enclave.hardening import forbid_dumps; forbid_dumps();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    assert run_python(code) == "0 (0, 0)"


def test_a_memory_file_opens_in_a_process_that_is_not_dumpable() -> None:
    """`/proc/self` then belongs to root, yet the process itself still reads its own descriptors, as nobody too."""
    code = (
        "import os; from enclave.hardening import forbid_dumps; from enclave.memory_file import MemoryFile;"
        "os.geteuid() == 0 and os.setuid(65534); forbid_dumps();"
        "print(MemoryFile('x', b'content').path.read_text())"
    )
    assert run_python(code) == "content"


def test_memory_is_locked_or_it_says_so() -> None:
    """Where the limit allows it, the kernel counts locked pages."""
    code = (
        "from pathlib import Path; from enclave.hardening import lock_memory; locked = lock_memory();"
        "size = next(line.split()[1] for line in Path('/proc/self/status').read_text().splitlines()"
        " if line.startswith('VmLck'));"
        "print(locked == (int(size) > 1000))"
    )
    assert run_python(code) == "True"


def test_threads_of_locked_memory_have_small_stacks() -> None:
    """A thread that is started after the lock takes 1 MiB of stack, not the 8 MiB that would be resident at once."""
    code = (
        "import threading; from enclave.hardening import lock_memory; before = threading.stack_size();"
        "lock_memory(); print(before, threading.stack_size())"
    )
    assert run_python(code) == f"0 {1024 * 1024}"


class Refusing:
    """A C library whose calls fail."""

    def prctl(self, *_: int) -> int:
        """Fail."""
        return -1

    def mlockall(self, _: int) -> int:
        """Fail."""
        return -1


class Recording:
    """A C library that takes everything."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def prctl(self, *arguments: int) -> int:
        """Take it."""
        self.calls.append(arguments)
        return 0

    def mlockall(self, flags: int) -> int:
        """Take it."""
        self.calls.append((flags,))
        return 0


def test_what_the_kernel_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for memory, which the caller decides about."""
    monkeypatch.setattr(hardening, "_libc", Refusing)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(OSError, match="PR_SET_DUMPABLE"):
        hardening.forbid_dumps()
    with pytest.raises(OSError, match="PR_SET_PDEATHSIG"):
        hardening.die_with_parent(9)
    assert not hardening.lock_memory()


def test_what_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of linux/prctl.h and sys/mman.h."""
    libc = Recording()
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(hardening, "_libc", lambda: libc)
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append((which, limit)))
    hardening.forbid_dumps()
    hardening.die_with_parent(9)
    assert hardening.lock_memory()
    assert libc.calls == [(4, 0, 0, 0, 0), (1, 9, 0, 0, 0), (3,)]
    assert limits == [(resource.RLIMIT_CORE, (0, 0))]


def test_the_c_library_is_there() -> None:
    """The real one has the two functions."""
    library = hardening._libc()
    assert [hasattr(library, name) for name in ("prctl", "mlockall")] == [True, True]


# Randomness


class CountingKms:
    """A KMS whose random bytes count upwards."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: SignerError | None = None

    async def generate_random(self, count_bytes: int) -> bytearray:
        """Return bytes that never repeat within a call."""
        if self.error is not None:
            raise self.error
        self.calls += 1
        await asyncio.sleep(0)
        return bytearray(
            b"".join((self.calls * 1000 + place).to_bytes(32, "big") for place in range(count_bytes // 32))
        )


def seeds_of(kms: CountingKms) -> KmsSeeds:
    """Make a pool."""
    return KmsSeeds(cast("KmsClient", kms))


async def test_one_request_serves_32_keys() -> None:
    """And no seed is ever given out twice, whoever asks at once."""
    kms = CountingKms()
    pool = seeds_of(kms)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pool.draw()) for _ in range(64)]
    seeds = {bytes(task.result()) for task in tasks}
    assert (len(seeds), kms.calls) == (64, 2)
    assert {len(seed) for seed in seeds} == {32}


async def test_a_drawn_seed_is_wiped_from_the_pool() -> None:
    """What was given out stands nowhere else."""
    pool = seeds_of(CountingKms())
    seed = await pool.draw()
    assert bytes(seed) not in bytes(pool._pool)
    assert len(pool._pool) == 31 * 32


async def test_a_pool_can_be_forgotten() -> None:
    """At the end of the process's work."""
    pool = seeds_of(CountingKms())
    await pool.draw()
    pool.wipe()
    assert not pool._pool


async def test_a_failed_draw_changes_nothing() -> None:
    """KMS's error is the caller's, and the next one tries again."""
    kms = CountingKms()
    pool = seeds_of(kms)
    kms.error = SignerError(ErrorCode.KMS_THROTTLED)
    with pytest.raises(SignerError):
        await pool.draw()
    kms.error = None
    assert await pool.draw()


# Batches


async def work(item: str) -> str:
    """Do what the item says."""
    match item:
        case "refused":
            raise SignerError(ErrorCode.KMS_DENIED)
        case "bug":
            raise RuntimeError("a secret in an error text")
        case "slow":
            await asyncio.Event().wait()
        case "timeout":
            raise TimeoutError
    await asyncio.sleep(0)
    return item.upper()


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_results_keep_the_order_of_items(count: int) -> None:
    """However many."""
    items = [f"item {number}" for number in range(count)]
    assert await each(items, work, timeout_s=30) == [item.upper() for item in items]


async def test_each_item_fails_alone() -> None:
    """A refusal, a bug and a time-out each become their item's own error; a bug is logged without its text."""
    with structlog.testing.capture_logs() as log:
        outcomes = await each(["good", "refused", "bug", "timeout", "fine"], work, timeout_s=30)
    codes = [outcome.code if isinstance(outcome, SignerError) else outcome for outcome in outcomes]
    assert codes == ["GOOD", ErrorCode.KMS_DENIED, ErrorCode.INTERNAL, ErrorCode.DEADLINE_EXCEEDED, "FINE"]
    assert captured(log) == ["item_failed"]
    assert "a secret" not in str(log)


async def test_a_deadline_for_all() -> None:
    """What is not done by then is told so; what was done is kept."""
    outcomes = await each(["slow", "good", "slow"], work, timeout_s=0.02)
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [
        ErrorCode.DEADLINE_EXCEEDED,
        "GOOD",
        ErrorCode.DEADLINE_EXCEEDED,
    ]


async def test_a_cancelled_batch_ends() -> None:
    """Its items with it."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(each(["slow", "slow"], work, timeout_s=30))
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
