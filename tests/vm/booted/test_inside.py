"""Boots an image whose program is tests, and does the parent's part of them."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.vm.bridge import HandshakeError, connect_to_guest
from tests.vm.guest import run_guest
from tests.vm.images import write_image
from tests.vm.inside.echo import CLOSED_PORT, GUEST_PORT, PARENT_PORT, echo, send_and_compare
from tests.vm.inside_image import DONE, image_of_tests
from tests.vm.machine import Paths

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.cache import Cache

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

_CID = 19
_LOOK_AGAIN_S = 0.2
_COUNTED = re.compile(r"(\d+) passed")


async def test_what_only_a_device_can_show(cache: Cache, state: Path) -> None:
    """All tests inside pass, on AF_VSOCK too; frames of every size cross both ways; a missing listener is an error."""
    image = state / "tests.eif"
    write_image(image_of_tests(cache), image)
    paths = Paths(state, "inside")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(paths.parent_port(PARENT_PORT)))
        listener.listen()
        listener.settimeout(0)
        async with asyncio.TaskGroup() as group:
            guest = group.create_task(run_guest(cache, image, paths, cid=_CID, listen=None, port=0))
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            connection.settimeout(0)
            await echo(connection)
            with await connect_to_guest(paths.vsock, GUEST_PORT) as sock:
                await send_and_compare(sock)
            with pytest.raises(HandshakeError):
                await connect_to_guest(paths.vsock, CLOSED_PORT)
            console = await _until_done(paths.console)
            guest.cancel()
    assert f"{DONE}0" in console, console[-20_000:]
    assert "DIALLED OK" in console, console[-20_000:]
    assert "vsock loopback" not in console, "tests over vsock were skipped"
    counted = _COUNTED.search(console)
    assert counted is not None
    assert int(counted[1]) > 100


async def _until_done(console: Path) -> str:
    """Return what the machine has printed once its tests have ended."""
    while True:
        text = console.read_text(errors="replace")
        if DONE in text:
            return text
        await asyncio.sleep(_LOOK_AGAIN_S)
