"""What makes an instance: install.sh in a folder that stands for the machine, the drain, the unit files."""

import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from config.engine import EngineSettings
from config.worker import load_worker_settings
from tests.deploy.template import ROOT, Rendered
from tests.deploy.test_deploy_policies import SERVICE
from workers.image import measure, pack_image, parse_image
from workers.proxy.settings import load_settings

DEPLOY = ROOT / "deploy"
IMAGE = pack_image(kernel=b"k", command_line=b"c", ramdisks=[b"boot", b"app"], metadata=b"{}")
PCR0 = measure(parse_image(IMAGE)).pcr0.hex()
KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"

STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
"""
CURL = (
    STUB + 'case "$*" in *target-lifecycle-state*) echo Terminated;; *instance-id*) echo i-1;; *) echo token;; esac\n'
)
PYTHON = STUB + (
    'mkdir -p "$3/bin"; ln -s "$(command -v stub)" "$3/bin/python"; '
    'ln -s "$(command -v nitro-signer-commands)" "$3/bin/nitro-signer"\n'
)
COMMANDS = f"""#!{sys.executable}
import sys
from workers.cli import config, image
if sys.argv[1] == "doctor":  # would ask AWS
    print("doctor", *sys.argv[2:])
    sys.exit(1)
{{"config": config.app, "image": image.app}}[sys.argv.pop(1)]()
"""
"""The commands that install.sh runs: the project's own, but for the doctor, which has its own tests."""


class Machine:
    """A folder that stands for an instance, with stubs in place of what needs AWS or root."""

    def __init__(self, folder: Path, role: str = "signer", pcr0: str = PCR0) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.calls.touch()
        self.bin.mkdir()
        for name in ("aws", "dnf", "systemctl", "stub"):
            self.stub(name, STUB)
        self.stub("curl", CURL)
        self.stub("python3.11", PYTHON)
        self.stub("nitro-signer-commands", COMMANDS)
        etc = self.root / "etc" / "nitro-signer"
        etc.mkdir(parents=True)
        (etc / "instance.env").write_text(instance_env(role, pcr0))
        self.release = self.root / "opt" / "nitro-signer" / "release"
        self.release.mkdir(parents=True)
        for source in (*DEPLOY.glob("instance/*.sh"), *DEPLOY.glob("systemd/*"), DEPLOY / "cloudwatch" / "agent.json"):
            shutil.copy(source, self.release)
        (self.release / f"{role}.eif").write_bytes(IMAGE)
        (self.release / "nitro_signer-0.1.0-py3-none-any.whl").touch()
        sums = [
            f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(self.release.iterdir())
        ]
        (self.release / "SHA256SUMS").write_text("".join(sums))

    def stub(self, name: str, text: str) -> None:
        """Put a program on the path."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def environ(self) -> dict[str, str]:
        """Return the environment of what runs here."""
        return {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "ROOT": str(self.root),
            "CALLS": str(self.calls),
        }

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the deployment."""
        command = ["bash", str(DEPLOY / "instance" / script)]
        return subprocess.run(command, env=self.environ(), capture_output=True, text=True, check=False, timeout=100)

    def called(self, program: str) -> list[str]:
        """Return the calls of one stub, in order."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(f"{program} ")]

    def told(self) -> tuple[str, str]:
        """Return what Auto Scaling and what the stack was told of the installation, each once."""
        return self.told_by(self.called("aws"))

    @staticmethod
    def told_by(calls: list[str]) -> tuple[str, str]:
        """Return the same of these calls."""
        hook, signal = calls
        result = re.search(r"complete-lifecycle-action .*--lifecycle-hook-name installed .*-result (\w+)$", hook)
        status = re.search(r"signal-resource .*--logical-resource-id (?:Signers|Generators) .*--status (\w+)$", signal)
        assert result is not None, hook
        assert status is not None, signal
        return result[1], status[1]


def user_data(role: str) -> str:
    """Return the user data of the rendered service stack."""
    resource = {"generator": "GeneratorTemplate", "signer": "SignerTemplate"}[role]
    text = Rendered("service.yaml", SERVICE).properties(resource)["LaunchTemplateData"]["UserData"]
    assert isinstance(text, str)
    return text


def instance_env(role: str, pcr0: str) -> str:
    """Return instance.env as user data writes it, with values that the checks of the settings take."""
    match = re.search(r"<<'END'\n(.*?)^END$", user_data(role), re.DOTALL | re.MULTILINE)
    assert match is not None
    values = dict(line.split("=", 1) for line in match[1].splitlines())
    assert values["ROLE"] == role
    queue = "https://sqs.eu-central-1.amazonaws.com/111122223333/"
    values |= {
        "IMAGE_PCR0": pcr0,
        "KMS_KEY_ARN": KEY_ARN,
        "QUEUE_URL": f"{queue}q",
        "DEAD_LETTER_QUEUE_URL": f"{queue}d",
        "REPLY_QUEUE_URL": f"{queue}r",
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


@pytest.mark.parametrize(("role", "job"), [("generator", "generate"), ("signer", "sign")])
def test_install(tmp_path: Path, role: str, job: str) -> None:
    """install.sh leaves settings that our programs take, starts everything in order, and ends its hook."""
    machine = Machine(tmp_path, role)
    done = machine.run("install.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    etc = machine.root / "etc"
    settings = load_worker_settings(etc / "nitro-signer" / "worker.toml")
    assert settings.kms_key_arn == KEY_ARN
    assert settings.role("sign" if job == "sign" else "generate").workers_per_instance == 2
    assert settings.brakes.table == "BrakeTableName"
    assert (settings.generate is None, settings.sign is None) == (job == "sign", job == "generate")
    proxy = load_settings(etc / "nitro-signer" / "vsock-proxy.yaml")
    assert [d.name for d in proxy.destinations] == ["kms.eu-central-1.amazonaws.com:443"]
    assert yaml.safe_load((etc / "nitro_enclaves" / "allocator.yaml").read_text()) == {
        "memory_mib": 2048,
        "cpu_count": 2,
    }
    assert f"JOB={job}\n" in (etc / "nitro-signer" / "worker.env").read_text()
    agent = json.loads((etc / "nitro-signer" / "agent.json").read_text())
    groups = {entry["log_group_name"] for entry in agent["logs"]["logs_collected"]["files"]["collect_list"]}
    assert groups == {f"/NamePrefix/{role}"}
    started = [f"nitro-signer-{part}" for part in ("vsock-proxy.service", "enclave.service", "drain.service")]
    started.append("nitro-signer-logrotate.timer")
    assert machine.called("systemctl") == [
        "systemctl daemon-reload",
        "systemctl enable --now nitro-enclaves-allocator.service",
        f"systemctl enable --now {' '.join(started)}",
        "systemctl enable --now nitro-signer-worker.service",
    ]
    assert f"doctor --config {etc}/nitro-signer/worker.toml" in done.stdout
    assert machine.told() == ("CONTINUE", "SUCCESS")
    units = machine.root / "etc" / "systemd" / "system"
    assert {unit.name for unit in DEPLOY.glob("systemd/nitro-*")} <= {unit.name for unit in units.iterdir()}


def test_another_image_is_abandoned(tmp_path: Path) -> None:
    """An image without the PCR0 that the stack was given is not run, and the instance is thrown away."""
    machine = Machine(tmp_path, pcr0="ab" * 48)
    done = machine.run("install.sh")
    assert done.returncode == 1
    assert "not the image whose PCR0" in done.stderr
    assert machine.called("systemctl") == []
    assert machine.told() == ("ABANDON", "FAILURE")


def test_a_damaged_release_is_abandoned(tmp_path: Path) -> None:
    """A file that does not have its checksum stops the installation before anything is installed."""
    machine = Machine(tmp_path)
    (machine.release / "drain.sh").write_text("other")
    done = machine.run("install.sh")
    assert done.returncode != 0
    assert machine.called("dnf") == []
    assert machine.told() == ("ABANDON", "FAILURE")


def test_a_worker_that_does_not_start_is_abandoned(tmp_path: Path) -> None:
    """When systemd says that a unit failed, Auto Scaling hears of it."""
    machine = Machine(tmp_path)
    machine.stub("systemctl", STUB + 'case "$*" in *worker*) exit 1;; esac\n')
    assert machine.run("install.sh").returncode == 1
    assert machine.told() == ("ABANDON", "FAILURE")


def test_drain(tmp_path: Path) -> None:
    """Workers are stopped, and only then Auto Scaling is told to go on."""
    machine = Machine(tmp_path)
    assert machine.run("drain.sh").returncode == 0
    ordered = [line for line in machine.calls.read_text().splitlines() if not line.startswith("curl")]
    assert len(ordered) == 2
    assert ordered[0] == "systemctl stop nitro-signer-worker.service"
    assert "--lifecycle-hook-name drained" in ordered[1]
    assert "--instance-id i-1" in ordered[1]


def unit(name: str) -> configparser.SectionProxy:
    """Return the Service section of a unit file."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys have capitals
    parser.read(DEPLOY / "systemd" / name)
    return parser["Service"]


def test_time_to_drain() -> None:
    """Systemd waits longer than a worker drains, and Auto Scaling longer than systemd."""
    fields = EngineSettings.model_fields
    drains_s = fields["drain_deadline_s"].default + fields["settle_timeout_s"].default
    stops_s = int(unit("nitro-signer-worker.service")["TimeoutStopSec"])
    hooks = Rendered("service.yaml", SERVICE).properties("Signers")["LifecycleHookSpecificationList"]
    terminating = next(hook for hook in hooks if hook["LifecycleHookName"] == "drained")
    assert drains_s < stops_s < terminating["HeartbeatTimeout"]


def test_units_are_sound(tmp_path: Path) -> None:
    """systemd-analyze verify says nothing about the units, in a root that has what they start."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the unit files were NOT checked")
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for source in DEPLOY.glob("systemd/*.service"):
        program = re.search(r"^ExecStart=/(\S+)", source.read_text(), re.MULTILINE)
        assert program is not None
        path = tmp_path / program[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        shutil.copy(source, units)
    for timer in DEPLOY.glob("systemd/*.timer"):
        shutil.copy(timer, units)
    for standard in (
        "timers.target",
        "network-online.target",
        "multi-user.target",
        "basic.target",
        "sysinit.target",
        "shutdown.target",
    ):
        (units / standard).write_text("[Unit]\nDescription=stands for the machine's own\n")
    (units / "nitro-enclaves-allocator.service").write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/true", tmp_path / "bin")
    names = [path.name for path in DEPLOY.glob("systemd/nitro-*")]
    command = ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if line and "nitro-signer" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
