"""What goes into an enclave image: packages, code, measured configuration, certificate authorities."""

import ast
import importlib.util
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from config.enclave import EnclaveConfigError, MeasuredConfig
from local.measurements import MEASURED_PACKAGES
from protocol.address import VsockAddress, parse_address
from protocol.messages import Role
from tests.deploy.template import ROOT

ENCLAVE = ROOT / "deploy" / "enclave"
KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"
OF_WORKERS = {"config/worker.py", "config/engine.py"}
"""Modules of a measured package that only workers import."""


def script(name: str) -> ModuleType:
    """Import a script of `deploy/enclave`."""
    spec = importlib.util.spec_from_file_location(name, ENCLAVE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_lock_file_is_in_sync() -> None:
    """The enclave's lock file is what the script derives from the project's."""
    lock = script("lock_requirements")
    assert lock.LOCK.read_text() == lock.derive(), "run deploy/enclave/lock_requirements.py"


def test_every_package_has_a_hash() -> None:
    """Each package is pinned to one version, and to hashes."""
    lock = script("lock_requirements")
    blocks = lock.read_blocks(lock.LOCK.read_text())
    assert blocks
    assert all("--hash=sha256:" in text for text in blocks.values())


def test_roots_are_what_the_code_imports() -> None:
    """requirements.in names the packages that measured code imports: none is missing, none is too much."""
    lock = script("lock_requirements")
    files = [
        path
        for package in MEASURED_PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.relative_to(ROOT).as_posix() not in OF_WORKERS
    ]
    names = {name for path in files for name in imported(path)} - set(MEASURED_PACKAGES) - sys.stdlib_module_names
    distributions = packages_distributions()
    needed = {distribution.lower() for name in names for distribution in distributions[name]}
    assert needed == set(lock.read_names(lock.ROOT_NAMES.read_text()))


def test_image_has_the_measured_packages() -> None:
    """The Dockerfile takes the packages that we say are measured, and its context has nothing else."""
    copied = re.findall(r"^COPY (\w+) \1$", (ENCLAVE / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(MEASURED_PACKAGES)
    taken = re.search(r"^  for package in (.*); do$", (ENCLAVE / "contents.sh").read_text(), re.MULTILINE)
    assert taken is not None
    assert sorted(taken[1].split()) == sorted(MEASURED_PACKAGES)
    context = (ENCLAVE / "Dockerfile.dockerignore").read_text().split()
    assert context[0] == "*"
    assert {line[1:] for line in context if line.startswith("!")} == {
        *MEASURED_PACKAGES,
        "deploy/enclave/contents.sh",
        "deploy/enclave/requirements.lock",
        "build/enclave.toml",
    }


@pytest.mark.parametrize("role", list(Role))
def test_measured_configuration(role: Role) -> None:
    """The template gives a configuration that the enclave takes, the same each time, that fits the proxy's."""
    render = script("measured_config").render
    text = render(role, KEY_ARN, (ENCLAVE / "amazon-roots.pem").read_text())
    assert text == render(role, KEY_ARN, (ENCLAVE / "amazon-roots.pem").read_text())
    config = MeasuredConfig.parse(text.encode()).config
    assert (config.role, config.kms_key_arn, config.kms_host) == (role, KEY_ARN, "kms.eu-central-1.amazonaws.com")
    assert config.allow_debug is False
    assert config.kms_ca_pem.count("BEGIN CERTIFICATE") == 4
    listening = re.search(r"listen: (\S+)", (ROOT / "deploy" / "vsock-proxy.yaml").read_text())
    assert listening is not None
    proxy = parse_address(listening[1])
    assert isinstance(proxy, VsockAddress)
    assert config.kms_proxy == VsockAddress(3, proxy.port)


def test_china_has_another_suffix() -> None:
    """KMS is called by the name of its partition."""
    bundle = (ENCLAVE / "amazon-roots.pem").read_text()
    text = script("measured_config").render(Role.SIGNER, KEY_ARN.replace("aws:", "aws-cn:", 1), bundle)
    assert 'kms_host = "kms.eu-central-1.amazonaws.com.cn"' in text


@pytest.mark.parametrize("arn", ["", "key", "arn:aws:kms:eu-central-1:111122223333:alias/x"])
def test_bad_keys_are_refused(arn: str) -> None:
    """What is no key's ARN makes no configuration."""
    with pytest.raises(EnclaveConfigError):
        script("measured_config").render(Role.SIGNER, arn, (ENCLAVE / "amazon-roots.pem").read_text())


def test_authorities_are_those_of_amazon() -> None:
    """The bundle holds the four roots that its comment names by fingerprint, and no other certificate."""
    text = (ENCLAVE / "amazon-roots.pem").read_text()
    stated = re.findall(r"^# .*([0-9a-f]{64})$", text, re.MULTILINE)
    found = [cert.fingerprint(hashes.SHA256()).hex() for cert in x509.load_pem_x509_certificates(text.encode())]
    assert found == stated
    assert len(found) == 4
