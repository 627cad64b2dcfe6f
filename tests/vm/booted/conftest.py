"""A whole stack whose enclaves are virtual machines, booted once for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio

from local.stack import run_stack
from local.stack_options import StackOptions
from tests.vm.cache import Cache
from tests.vm.enclaves import VirtualMachinePlatform
from tests.vm.images import ImageParts
from tests.vm.stand import Stand

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

KEEP_VARIABLE: Final = "NITRO_SIGNER_VM_KEEP"
_PATIENT: Final = {
    "NITRO_SIGNER_ENCLAVE__CONNECT_TIMEOUT_S": "60",
    "NITRO_SIGNER_ENCLAVE__CALL_TIMEOUT_S": "110",
}
"""An emulated processor is some twenty times slower than a real one."""


@pytest.fixture(scope="session")
def cache() -> Cache:
    """Give the tools."""
    found = Cache.of_this_user()
    if found.read_manifest() is None:
        pytest.fail(f"the tools of the virtual machine are not in {found.root}: make vm-tools")
    return found


@pytest.fixture(scope="session")
def parts(cache: Cache) -> ImageParts:
    """Give what all images of this checkout have in common."""
    return ImageParts.of_this_checkout(cache)


@pytest.fixture(scope="session")
def state() -> Iterator[Path]:
    """Give a state folder with a short path, for the sake of its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="nsvm-"))
    yield folder
    if not os.environ.get(KEEP_VARIABLE):
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stand(cache: Cache, parts: ImageParts, state: Path) -> AsyncIterator[Stand]:
    """Give the running stack."""
    platform = VirtualMachinePlatform(cache, parts)
    async with run_stack(state, StackOptions(enclaves=platform, worker_environ=_PATIENT)) as local:
        yield Stand(local, platform, cache)
