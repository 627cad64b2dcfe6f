"""An image rebuilt from the same commit and the same packages is the same, to the byte."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.vm import boot, ramdisks
from tests.vm.images import ImageParts, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.cache import Cache

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

CONFIG = b'role = "signer"\n'


def test_an_image_rebuilt_from_the_same_commit_has_the_same_pcr0(
    cache: Cache, parts: ImageParts, tmp_path: Path
) -> None:
    """Nothing is kept from the first time: packages installed again, bytecode compiled again, from another folder."""
    source = tmp_path / "checkout"
    for name in ramdisks.MEASURED_PACKAGES:
        shutil.copytree(ramdisks.ROOT / name, source / name)
    again = ImageParts(
        parts.kernel,
        (
            boot.boot_ramdisk(cache),
            ramdisks.make_packages_ramdisk(cache),
            ramdisks.program_ramdisk(cache, source=source),
        ),
    )
    assert [len(part) for part in again.ramdisks] == [len(part) for part in parts.ramdisks]
    first = write_image(parts.enclave_image(CONFIG), tmp_path / "first.eif")
    second = write_image(again.enclave_image(CONFIG), tmp_path / "second.eif")
    assert second == first
    assert (tmp_path / "first.eif").read_bytes() == (tmp_path / "second.eif").read_bytes()


def test_another_line_of_code_or_configuration_is_another_pcr0(cache: Cache, parts: ImageParts, tmp_path: Path) -> None:
    """The measurement covers both; kernel and boot (PCR1) stay as they are."""
    first = write_image(parts.enclave_image(CONFIG), tmp_path / "image.eif")
    other_config = write_image(parts.enclave_image(CONFIG + b"\n"), tmp_path / "image.eif")
    source = tmp_path / "checkout"
    for name in ramdisks.MEASURED_PACKAGES:
        shutil.copytree(ramdisks.ROOT / name, source / name)
    with (source / "enclave" / "signer.py").open("a") as file:
        file.write("# one more line\n")
    changed = ImageParts(parts.kernel, (*parts.ramdisks[:2], ramdisks.program_ramdisk(cache, source=source)))
    other_code = write_image(changed.enclave_image(CONFIG), tmp_path / "image.eif")
    assert len({first.pcr0, other_config.pcr0, other_code.pcr0}) == 3
    assert first.pcr1 == other_config.pcr1 == other_code.pcr1
