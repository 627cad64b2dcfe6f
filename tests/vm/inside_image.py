"""The image whose program is tests: everything of an enclave's image, and the rest of the checkout with pytest."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.vm import boot, ramdisks
from tests.vm.images import COMMAND_LINE, read_kernel
from tests.vm.modules import ENCLAVE_MODULES, LOOPBACK_MODULES
from tests.vm.ramdisks import PYTHON, ROOT, SITE
from workers.image import make_metadata, pack_image

if TYPE_CHECKING:
    from tests.vm.cache import Cache

DONE: Final = "INSIDE ended with code "
_BLOCK: Final = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_PYTEST: Final = ("hypothesis", "iniconfig", "packaging", "pluggy", "pygments", "pytest", "pytest-asyncio")
_PYTEST_MORE: Final = ("pytest-timeout", "sortedcontainers")
_SUITES: Final = (
    "tests/vm/inside",
    "tests/protocol/test_transport.py",
    "tests/protocol/test_channel.py",
    "tests/protocol/test_server.py",
    "tests/workers/proxy/test_proxy_server.py",
    "tests/workers/proxy/test_proxy_relay.py",
)
"""What needs the device, and what runs on every transport that the machine has: here on vsock, too."""

_TEST_TIMEOUT_S: Final = 600

_SCRIPT: Final = """\
# The loopback of vsock is a module; that of IP is down until somebody says otherwise.
/bin/busybox ifconfig lo up
export HOME=/tmp
cd /{site}
/{python} -m tests.vm.inside.echo &
/{python} -m pytest -o addopts= -o timeout={timeout} --import-mode=importlib --strict-config -p no:cacheprovider \\
    -rs --tb=short {suites}
echo "{done}$?"
while :; do /bin/busybox sleep 60; done
"""


def image_of_tests(cache: Cache) -> bytes:
    """Return the image. What it prints last is `DONE` and pytest's exit code; then it waits to be ended."""
    script = _SCRIPT.format(site=SITE, python=PYTHON, timeout=_TEST_TIMEOUT_S, suites=" ".join(_SUITES), done=DONE)
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(_requirements())
        more_packages = ramdisks.packages_ramdisk(cache, requirements=requirements)
    return pack_image(
        kernel=read_kernel(cache),
        command_line=COMMAND_LINE,
        ramdisks=[
            boot.boot_ramdisk(cache, (*ENCLAVE_MODULES, *LOOPBACK_MODULES), keeps_time=False),
            more_packages,
            ramdisks.program_ramdisk(cache, (*ramdisks.MEASURED_PACKAGES, "local", "workers", "tests")),
            boot.start_ramdisk(
                {"inside.sh": script.encode(), f"{SITE}/pyproject.toml": (ROOT / "pyproject.toml").read_bytes()},
                command="/bin/busybox sh /inside.sh",
            ),
        ],
        metadata=make_metadata(name="nitro-signer-vm-tests", version="0"),
    )


def _requirements() -> str:
    """Return the locked requirements of the product and of pytest."""
    wanted = {*_PYTEST, *_PYTEST_MORE}
    developer = _blocks((ROOT / "requirements-dev.lock").read_text())
    product = _blocks((ROOT / "requirements.lock").read_text())
    return "".join([*product.values(), *(developer[name] for name in sorted(wanted - product.keys()))])


def _blocks(lock: str) -> dict[str, str]:
    """Return the text of each requirement with its hashes, by name."""
    starts = [*_BLOCK.finditer(lock)]
    ends = [*(match.start() for match in starts[1:]), len(lock)]
    return {match[1]: lock[match.start() : end] for match, end in zip(starts, ends, strict=True)}
