"""The programs: what they refuse, what they say when they cannot work, and that processes come and go together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import enclave.__main__ as enclave_main
from enclave import main as main_module
from enclave.main import EXIT_REFUSED, Platform, run_enclave
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.address import UnixAddress
from protocol.channel import open_channel
from protocol.clock import system_clock
from protocol.errors import SignerError
from protocol.messages import HelloResult, NotReadyReason
from tests.enclave.parts import MEASUREMENTS
from tests.enclave.stand import TIMEOUT_S, without_hardening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enclave.nsm import NsmTransport

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration that is sound as far as it can be without a KMS."""
    from local.tls import kms_tls

    authorities = kms_tls(tmp_path, "us-east-1", now_s=system_clock()).ca_bundle.read_text()
    path = tmp_path / "enclave.toml"
    path.write_text(
        f"""
role = "signer"
kms_key_arn = "arn:aws:kms:us-east-1:000000000000:key/1234"
kms_host = "localhost"
kms_proxy = "unix://{tmp_path}/proxy"
listen = "unix://{tmp_path}/s"
processes = 2
kms_ca_pem = '''{authorities}'''
"""
    )
    return path


@contextlib.contextmanager
def started(*command: str, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program of this project until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={"PATH": os.environ["PATH"], **(environ or {})},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def hello_of(address: UnixAddress) -> HelloResult:
    """Wait until an enclave answers, and return what it says once it has tried to start."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with contextlib.suppress(SignerError):
                async with open_channel(address, software="test", timeout_s=TIMEOUT_S) as channel:
                    if channel.hello.reason is not NotReadyReason.STARTING:
                        return channel.hello
            await asyncio.sleep(0.01)


def children_of(pid: int) -> set[int]:
    """Return the ids of a process's children."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def until(condition: Callable[[], object]) -> None:
    """Wait for something in another process."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "https_proxy", "SSLKEYLOGFILE"])
@pytest.mark.parametrize("program", ["enclave", "local.enclave"])
def test_a_diverting_environment_is_refused(config: Path, tmp_path: Path, program: str, name: str) -> None:
    """Exit code 2 and one line that names the variable."""
    state = ["--state", str(tmp_path)] if program == "local.enclave" else []
    with started(program, str(config), *state, environ={name: os.devnull}) as process:
        _, text = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == EXIT_REFUSED
    assert name in text
    assert len(text.splitlines()) == 1


def test_misuse_is_refused() -> None:
    """Without a configuration there is nothing to run."""
    with started("enclave") as process:
        _, text = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, text) == (EXIT_REFUSED, "usage: python -m enclave CONFIG\n")


async def test_without_a_module_the_real_enclave_says_so(config: Path, tmp_path: Path) -> None:
    """`python -m enclave` knows only the device; where there is none it stays up and tells the reason."""
    if Path("/dev/nsm").exists():
        pytest.skip("this machine has a Nitro Secure Module")
    config.write_text(config.read_text().replace("processes = 2", "processes = 1"))
    with started("enclave", str(config)) as process:
        hello = await hello_of(UnixAddress(str(tmp_path / "s")))
        process.terminate()
        _, text = process.communicate(timeout=TIMEOUT_S)
    # without the right to lock memory that is said first
    assert hello.reason in {NotReadyReason.NSM_UNAVAILABLE, NotReadyReason.SELF_TEST_FAILED}
    assert (process.returncode, text) == (0, "")


async def test_a_bad_configuration_stays_up(tmp_path: Path) -> None:
    """One line on standard error, and `hello` at the fallback address."""
    path = tmp_path / "bad.toml"
    path.write_text("role = 'signer'")
    with started("local.enclave", str(path), "--state", str(tmp_path)) as process:
        hello = await hello_of(UnixAddress(str(tmp_path / "enclave.sock")))
        process.terminate()
        _, text = process.communicate(timeout=TIMEOUT_S)
    assert (hello.reason, hello.enclave.role) == (NotReadyReason.BAD_CONFIG, None)
    assert process.returncode == 0
    assert "kms_key_arn: field is missing" in text


async def test_processes_come_and_go_together(config: Path, tmp_path: Path) -> None:
    """One address each; a killed one is started anew; SIGTERM ends all, with exit code 0."""
    base = UnixAddress(str(tmp_path / "s"))
    with started("local.enclave", str(config), "--state", str(tmp_path)) as process:
        first, second = await hello_of(base), await hello_of(base.sibling(1))
        assert (first.reason, first.enclave.processes) == (NotReadyReason.NO_CREDENTIALS, 2)
        assert first.enclave.instance != second.enclave.instance
        assert first.enclave.pcr0 == second.enclave.pcr0
        children = children_of(process.pid)
        assert len(children) == 2
        os.kill(min(children), signal.SIGKILL)
        await until(lambda: len(children_of(process.pid)) == 2 and children_of(process.pid) != children)
        instances = {(await hello_of(address)).enclave.instance for address in (base, base.sibling(1))}
        assert len(instances) == 2
        assert instances != {first.enclave.instance, second.enclave.instance}
        process.terminate()
        _, text = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, text) == (0, "")
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _as_process_1(orphans_end: Path, *command: str) -> subprocess.Popen[bytes]:
    """Run a command as process 1 with two orphans, one that ends before it starts and one later; skip if forbidden."""
    own = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no process numbers of one's own here (unshare --pid): the enclave did not run as process 1")
    orphans = f'(true &); (while ! test -e "{orphans_end}"; do sleep 0.1; done &)'
    shell = ["sh", "-c", f'{orphans}; sleep 0.1; exec "$@"', "sh"]
    return subprocess.Popen([*own, *shell, *command], env={"PATH": os.environ["PATH"]}, cwd=ROOT)


async def test_as_process_1(config: Path, tmp_path: Path) -> None:
    """As in a container: it reaps what is orphaned, before it and later, SIGTERM reaches it, and it ends in order."""
    orphans_end = tmp_path / "end"
    program = [sys.executable, "-m", "local.enclave", str(config), "--state", str(tmp_path)]
    with _as_process_1(orphans_end, *program) as outer:
        try:
            assert (await hello_of(UnixAddress(str(tmp_path / "s")))).reason is NotReadyReason.NO_CREDENTIALS
            [supervisor] = children_of(outer.pid)
            assert Path(f"/proc/{supervisor}/status").read_text().split("NSpid:")[1].split()[1] == "1"
            await until(lambda: len(children_of(supervisor)) == 3)
            orphans_end.touch()
            await until(lambda: len(children_of(supervisor)) == 2)
            os.kill(supervisor, signal.SIGTERM)
            assert outer.wait(TIMEOUT_S) == 0
        finally:
            outer.kill()


async def test_no_child_outlives_a_killed_supervisor(config: Path, tmp_path: Path) -> None:
    """Not even after `kill -9`."""
    with started("local.enclave", str(config), "--state", str(tmp_path)) as process:
        await hello_of(UnixAddress(str(tmp_path / "s")))
        await until(lambda: len(children_of(process.pid)) == 2)
        children = children_of(process.pid)
        process.kill()
        process.wait(TIMEOUT_S)
        await until(lambda: not any(_is_running(child) for child in children))


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


# The same code inside this process, where it can be watched


class OneChild:
    """A supervisor that runs its child here and now."""

    def __init__(self, count: int, run_child: Callable[[int], None]) -> None:
        self.count = count
        self._run_child = run_child

    def run(self) -> int:
        """Run child 0."""
        self._run_child(0)
        return self.count


def platform(tmp_path: Path, made: list[bytes]) -> Platform:
    """Return a platform with a stand-in module."""

    def make_nsm(config_bytes: bytes) -> NsmTransport:
        made.append(config_bytes)
        return StandInNsm(NitroAuthority.create(now_s=system_clock()), MEASUREMENTS, clock=system_clock)

    return Platform(
        make_nsm=make_nsm,
        clock_setter=None,
        must_lock_memory=False,
        fallback_address=UnixAddress(str(tmp_path / "fallback")),
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let the program run inside this process and leave it as it is."""
    without_hardening(monkeypatch)
    monkeypatch.setattr(main_module, "forbid_dumps", lambda: None)
    monkeypatch.setattr(main_module, "die_with_parent", lambda _: None)
    monkeypatch.setattr(main_module, "Supervisor", OneChild)
    return monkeypatch


def test_a_child_whose_supervisor_is_gone_does_nothing(here: pytest.MonkeyPatch, config: Path, tmp_path: Path) -> None:
    """Between fork and prctl the supervisor may have died: then nobody would ever end the child."""
    made: list[bytes] = []
    here.setattr("enclave.main.os.getppid", lambda: -1)
    assert run_enclave(config, {}, platform(tmp_path, made)) == 2
    assert made == []


def test_a_child_serves_until_sigterm(here: pytest.MonkeyPatch, config: Path, tmp_path: Path) -> None:
    """It is made of the measured bytes, after the fork, and ends in order."""
    made: list[bytes] = []
    here.setattr("enclave.main.os.getppid", os.getpid)
    served: list[HelloResult] = []

    async def serve(parts: object) -> None:
        from enclave.process import ProcessParts, run_process

        assert isinstance(parts, ProcessParts)
        assert isinstance(parts.address, UnixAddress)
        async with asyncio.TaskGroup() as group:
            group.create_task(run_process(parts))
            served.append(await hello_of(parts.address))
            os.kill(os.getpid(), signal.SIGTERM)

    here.setattr(main_module, "run_process", serve)
    assert run_enclave(config, {}, platform(tmp_path, made)) == 2
    assert made == [config.read_bytes()]
    assert [hello.reason for hello in served] == [NotReadyReason.NO_CREDENTIALS]


@pytest.mark.parametrize("text", [None, "role = 'both'"])
def test_what_cannot_be_read_runs_at_the_fallback_address(
    here: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    """A missing and a bad file alike; one process."""
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_text(text)
    here.setattr("enclave.main.os.getppid", os.getpid)
    seen: list[object] = []

    async def serve(parts: object) -> None:
        seen.append(parts)

    here.setattr(main_module, "run_process", serve)
    assert run_enclave(path, {}, platform(tmp_path, [])) == 1
    assert [getattr(parts, "measured", 0) for parts in seen] == [None]
    assert [getattr(parts, "address", 0) for parts in seen] == [UnixAddress(str(tmp_path / "fallback"))]
    assert str(path) in capsys.readouterr().err


def test_one_process_per_cpu(here: pytest.MonkeyPatch, config: Path, tmp_path: Path) -> None:
    """When the measured configuration does not say how many."""
    config.write_text(config.read_text().replace("processes = 2", "processes = 0"))
    here.setattr("enclave.main.os.getppid", lambda: -1)
    assert run_enclave(config, {}, platform(tmp_path, [])) == len(os.sched_getaffinity(0))


def test_the_environment_is_judged_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any file is read."""
    assert run_enclave(tmp_path / "none", {"AWS_REGION": "x"}, platform(tmp_path, [])) == EXIT_REFUSED
    assert "AWS_REGION" in capsys.readouterr().err


def test_the_entry_point_of_the_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The real device, the system clock to set, and memory that must be locked."""
    from enclave.attested_clock import set_system_clock
    from enclave.nsm_device import DevNsm

    platforms: list[Platform] = []

    def run(path: Path, environ: object, given: Platform) -> int:
        del path, environ
        platforms.append(given)
        return 7

    monkeypatch.setattr(enclave_main, "run_enclave", run)
    monkeypatch.setattr(sys, "argv", ["enclave", "config.toml"])
    assert enclave_main.main() == 7
    [given] = platforms
    assert (given.clock_setter, given.must_lock_memory) == (set_system_clock, True)
    assert isinstance(given.make_nsm(b""), DevNsm)
    monkeypatch.setattr(sys, "argv", ["enclave"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "enclave" / "__main__.py"), run_name="__main__")
    assert left.value.code == EXIT_REFUSED
    assert "usage" in capsys.readouterr().err
