"""run-enclave.sh, with a stub in place of nitro-cli: starts one enclave, watches it, ends it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.template import ROOT

SCRIPT = ROOT / "deploy" / "instance" / "run-enclave.sh"
ENCLAVE = "i-1-enc1"

# Answers as nitro-cli does (its documentation). File `state`: how the enclave is; file `fails`: run-enclave fails.
NITRO_CLI = f"""#!/bin/sh
echo "nitro-cli $*" >> "$CALLS"
case "$1" in
run-enclave)
  [ ! -e "$STATE/fails" ] || {{ echo "[ E26 ] Insufficient memory requested" >&2; exit 26; }}
  echo '{{"EnclaveName": "nitro-signer", "EnclaveID": "{ENCLAVE}", "ProcessID": 1, "EnclaveCID": 16}}' ;;
describe-enclaves)
  if [ -s "$STATE/state" ]
  then echo '[{{"EnclaveID": "another", "State": "RUNNING"}},'
    echo '{{"EnclaveID": "{ENCLAVE}", "State": "'"$(cat "$STATE/state")"'", "Flags": "NONE"}}]'
  else echo '[]'; fi ;;
esac
"""
NOTIFY = """#!/bin/sh
echo "systemd-notify $*" >> "$CALLS"
[ "$1" != --ready ] || echo ready
"""


class Parent:
    """A folder that stands for the instance; the script runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.calls.touch()
        self.state("RUNNING")
        for name, text in {
            "nitro-cli": NITRO_CLI,
            "systemd-notify": NOTIFY,
            "sleep": "#!/bin/sh\nexec /bin/sleep 0.05\n",
        }.items():
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(text)
            program.chmod(0o755)
        self.process: subprocess.Popen[str] | None = None

    def state(self, text: str) -> None:
        """Say how the enclave is; empty when it is gone. Written in one step: the script looks all the time."""
        new = self.folder / "new"
        new.write_text(text)
        new.rename(self.folder / "state")

    def start(self) -> subprocess.Popen[str]:
        """Start the script."""
        environ = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "STATE": str(self.folder),
            "ENCLAVE_CPUS": "2",
            "ENCLAVE_MEMORY_MIB": "2048",
        }
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self.process

    def called(self, text: str) -> list[str]:
        """Return the calls that begin with a text."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(text)]


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    """Give a folder in which nothing is left running."""
    parent = Parent(tmp_path)
    yield parent
    if parent.process is not None:
        with parent.process:  # closes its pipes
            if parent.process.poll() is None:
                parent.process.kill()


def wait_ready(process: subprocess.Popen[str]) -> None:
    """Return when systemd was told that the enclave runs."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


@pytest.mark.parametrize("state", ["TERMINATING", "EMPTY", ""])
def test_ends_when_the_enclave_does(parent: Parent, state: str) -> None:
    """The unit fails, so that systemd starts it anew; no other enclave's state is taken for that of ours."""
    process = parent.start()
    wait_ready(process)
    parent.state(state)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"enclave {ENCLAVE} has ended" in errors


def test_starts_what_is_measured(parent: Parent) -> None:
    """A predecessor is ended first; the enclave gets what the stack says, at the CID of the settings, no debugging."""
    process = parent.start()
    wait_ready(process)
    parent.state("")
    process.communicate(timeout=60)
    before, run = parent.called("nitro-cli ")[:2]
    assert before == "nitro-cli terminate-enclave --all"
    assert run == (
        "nitro-cli run-enclave --enclave-name nitro-signer --eif-path /opt/nitro-signer/enclave.eif"
        " --enclave-cid 16 --cpu-count 2 --memory 2048"
    )
    assert parent.called("systemd-notify ")[0] == f"systemd-notify --ready --status={ENCLAVE}"


def test_stop_ends_the_enclave(parent: Parent) -> None:
    """SIGTERM ends this enclave and no other, and is no failure."""
    process = parent.start()
    wait_ready(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert parent.called("nitro-cli terminate")[-1] == f"nitro-cli terminate-enclave --enclave-id {ENCLAVE}"


def test_an_enclave_that_does_not_start_is_never_ready(parent: Parent) -> None:
    """What nitro-cli says reaches the log, and systemd hears of no success."""
    (parent.folder / "fails").touch()
    _, errors = parent.start().communicate(timeout=60)
    assert parent.process is not None
    assert parent.process.returncode not in {0, None}
    assert "E26" in errors
    assert parent.called("systemd-notify ") == []
