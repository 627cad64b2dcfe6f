"""A running stand-in for each test; one Nitro authority for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.nitro_authority import NitroAuthority
from protocol.clock import system_clock
from tests.local.kms.rig import Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def nitro_authority() -> NitroAuthority:
    """Give the root of all documents."""
    return NitroAuthority.create(now_s=system_clock())


@pytest.fixture
def rig(tmp_path: Path, nitro_authority: NitroAuthority) -> Rig:
    """Give key, roles and policies, and no server yet."""
    made = Rig(tmp_path / "kms", nitro_authority)
    made.provision()
    return made


@pytest.fixture
async def running(rig: Rig) -> AsyncIterator[Rig]:
    """Give the same with a server."""
    async with rig.serve():
        yield rig
