"""Linters over what is deployed. Each comes as a Python package; where one is missing, its check says so and skips."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.template import CLOUDFORMATION, ROOT

DEPLOY = ROOT / "deploy"
CHECKOV = ROOT / ".venv-checkov" / "bin"
"""An environment of its own, which `make test` sets up."""
_TIMEOUT_S = 600
"""Checkov takes 12 s of CPU: minutes on a machine that does much else."""

pytestmark = pytest.mark.timeout(_TIMEOUT_S)


def run(tool: str, *arguments: object) -> None:
    """Run a tool of this environment, or of the machine; it has to find nothing."""
    places = os.pathsep.join([str(Path(sys.executable).parent), str(CHECKOV), os.environ.get("PATH", "")])
    program = shutil.which(tool, path=places)
    if program is None:
        pytest.skip(f"{tool} is not installed: what it checks was NOT checked")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=_TIMEOUT_S - 10
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_templates_have_no_warnings() -> None:
    """cfn-lint has nothing to say about the templates."""
    run("cfn-lint", *sorted(CLOUDFORMATION.glob("*.yaml")))


def test_policy_scanner() -> None:
    """Checkov finds nothing beyond the exceptions that deploy/checkov.yaml explains."""
    run("checkov", "--config-file", DEPLOY / "checkov.yaml", "--directory", DEPLOY)


def test_dockerfile() -> None:
    """Hadolint has nothing to say about the Dockerfile."""
    run("hadolint", DEPLOY / "enclave" / "Dockerfile")


def test_shell_scripts() -> None:
    """Shellcheck has nothing to say about any script of the deployment."""
    scripts = sorted(DEPLOY.rglob("*.sh"))
    assert scripts
    run("shellcheck", *scripts)
