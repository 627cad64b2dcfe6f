"""User data, to the letter and at its real paths, on this machine's own system with a layer over what it writes.

Namespaces of the kernel make that harmless: what is written goes to a layer in memory that ends with the process.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.test_deploy_instance import PCR0, Machine, instance_env, user_data

PLACES = ("etc", "opt", "var/log")
_LAYERS = """
set -euo pipefail
mount -t tmpfs tmpfs "$LAYERS"
for place in {places}; do
  mkdir -p "$LAYERS/$place/upper" "$LAYERS/$place/work"
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$LAYERS/$place/upper,workdir=$LAYERS/$place/work" "/$place"
done
""".format(places=" ".join(PLACES))
_RUN = """
status=0
bash "$USER_DATA" || status=$?
for place in {places}; do (cd "$LAYERS/$place/upper" && find . -type f -printf "wrote /$place/%P\\n"); done
cat /etc/nitro-signer/instance.env
exit "$status"
""".format(places=" ".join(PLACES))
NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c")
AWS = """#!/bin/sh
echo "aws $*" >> "$CALLS"
case "$1 $2" in "s3 cp") for last; do :; done; mkdir -p "$last"; cp -R "$RELEASE/." "$last" ;; esac
"""


def layered(folder: Path, command: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run commands on this machine's system, with layers over it."""
    layers = folder / "layers"
    layers.mkdir(exist_ok=True)
    return subprocess.run(
        [*NAMESPACES, _LAYERS + command],
        env=environ | {"LAYERS": str(layers)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("role", ["generator", "signer"])
def test_user_data(tmp_path: Path, role: str) -> None:
    """It fetches the release, installs it where units and scripts look for it, writes nowhere else, says so."""
    machine = Machine(tmp_path, role)
    environ = machine.environ() | {"RELEASE": str(machine.release), "USER_DATA": str(tmp_path / "user-data")}
    del environ["ROOT"]
    if sys.platform != "linux" or shutil.which("unshare") is None or layered(tmp_path, "", environ).returncode:
        pytest.skip("no user namespaces with overlays here: the user data was NOT run")
    machine.stub("aws", AWS)
    text = user_data(role)
    before, _, rest = text.partition("<<'END'\n")
    (tmp_path / "user-data").write_text(f"{before}<<'END'\n{instance_env(role, PCR0)}{rest[rest.index('END') :]}")
    done = layered(tmp_path, _RUN, environ)
    assert done.returncode == 0, done.stdout + done.stderr
    fetched, *told = machine.called("aws")
    assert fetched.startswith("aws s3 cp --recursive --only-show-errors s3://ArtifactBucketName/releases/1 ")
    assert len(told) == 2
    assert machine.told_by(told) == ("CONTINUE", "SUCCESS")
    wrote = {line.removeprefix("wrote ") for line in done.stdout.splitlines() if line.startswith("wrote ")}
    ours = {path for path in wrote if not path.startswith("/opt/nitro-signer/")}
    assert ours == {
        "/etc/nitro-signer/agent.json",
        "/etc/nitro-signer/instance.env",
        "/etc/nitro-signer/logrotate.conf",
        "/etc/nitro-signer/vsock-proxy.yaml",
        "/etc/nitro-signer/worker.env",
        "/etc/nitro-signer/worker.toml",
        "/etc/nitro_enclaves/allocator.yaml",
        "/etc/systemd/system/nitro-signer-drain.service",
        "/etc/systemd/system/nitro-signer-enclave.service",
        "/etc/systemd/system/nitro-signer-logrotate.service",
        "/etc/systemd/system/nitro-signer-logrotate.timer",
        "/etc/systemd/system/nitro-signer-vsock-proxy.service",
        "/etc/systemd/system/nitro-signer-vsock-proxy.service.d/log.conf",
        "/etc/systemd/system/nitro-signer-worker.service",
    }
    assert {
        f"/opt/nitro-signer/{name}" for name in ("enclave.eif", "libexec/run-enclave.sh", "libexec/drain.sh")
    } <= wrote
    assert f"ROLE={role}\n" in done.stdout
    assert not Path("/etc/nitro-signer").exists()
