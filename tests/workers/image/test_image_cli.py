"""`nitro-signer image pcrs` and `image pack`: output and exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.workers.image.parts import APPLICATION, BOOT, COMMAND_LINE, KERNEL, METADATA
from workers.cli.image import app
from workers.image import Architecture, measure, pack_image, parse_image

runner = CliRunner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a sound image."""
    path = tmp_path / "image.eif"
    path.write_bytes(
        pack_image(kernel=KERNEL, command_line=COMMAND_LINE, ramdisks=[BOOT, APPLICATION], metadata=METADATA)
    )
    return path


def run(*arguments: object) -> tuple[int, str]:
    """Return exit code and output, standard error included."""
    result = runner.invoke(app, ["pcrs", *map(str, arguments)])
    return result.exit_code, result.output


def test_measurements_are_printed(file: Path) -> None:
    """One register a line, as text."""
    code, output = run(file)
    assert code == 0
    assert f"PCR0      {measure(parse_image(file.read_bytes())).pcr0.hex()}" in output
    assert "PCR8" not in output


def test_json_is_what_compare_reads(file: Path, tmp_path: Path) -> None:
    """The JSON has the form of the Nitro CLI's, so that it can stand in for it; text before it is skipped."""
    code, output = run(file, "--json")
    assert code == 0
    build_output = tmp_path / "build.json"
    build_output.write_text("Start building the Enclave Image...\n" + output)
    code, output = run(file, "--compare", build_output)
    assert (code, output.splitlines()[-1]) == (0, f"the same as in {build_output}")
    assert run(file, "--compare", build_output, "--json")[0] == 0


def test_other_measurements_are_named(file: Path, tmp_path: Path) -> None:
    """A build output of another image: exit 1, and the register that differs."""
    found = json.loads(run(file, "--json")[1])
    found["Measurements"] |= {"PCR2": "ab" * 48, "PCR8": "cd" * 48}
    build_output = tmp_path / "build.json"
    build_output.write_text(json.dumps(found))
    code, output = run(file, "--compare", build_output)
    assert code == 1
    assert "PCR2 is not that of" in output
    assert "PCR8 is not that of" in output
    assert "PCR0 is not" not in output


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    """Exit 1 and the reason."""
    path = tmp_path / "no.eif"
    path.write_bytes(b"hello")
    code, output = run(path)
    assert (code, "does not begin with .eif" in output) == (1, True)


def test_misuse_is_exit_code_two(file: Path, tmp_path: Path) -> None:
    """Files that are not there, or are no build output."""
    assert run(tmp_path / "missing.eif")[0] == 2
    assert run(file, "--compare", tmp_path / "missing.json")[0] == 2
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert run(file, "--compare", other)[0] == 2


def _pack(folder: Path, *more: str) -> tuple[int, str, Path]:
    """Pack the made-up parts; return exit code, output and where the image is."""
    for part, content in (("kernel", KERNEL), ("boot", BOOT), ("application", APPLICATION)):
        (folder / part).write_bytes(content)
    image = folder / "packed.eif"
    arguments = ["pack", "--kernel", str(folder / "kernel"), "--command-line", COMMAND_LINE.decode()]
    arguments += ["--ramdisk", str(folder / "boot"), "--ramdisk", str(folder / "application"), "--output", str(image)]
    result = runner.invoke(app, [*arguments, *more])
    return result.exit_code, result.output, image


def test_pack_makes_an_image_of_the_parts_in_their_order(tmp_path: Path, file: Path) -> None:
    """What is measured is exactly what was given: the same PCRs as those of the library's packer."""
    code, output, image = _pack(tmp_path, "--json")
    assert code == 0
    found = measure(parse_image(image.read_bytes()))
    assert found == measure(parse_image(file.read_bytes()))
    assert json.loads(output)["Measurements"]["PCR0"] == found.pcr0.hex()


def test_pack_gives_the_same_bytes_again(tmp_path: Path) -> None:
    """No time, no name of this machine, no order of a dictionary."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert _pack(one)[2].read_bytes() == _pack(other)[2].read_bytes()


def test_what_describes_an_image_does_not_change_its_measurements(tmp_path: Path) -> None:
    """Name, version, memory and processors are in the file, and in no PCR."""
    _, _, image = _pack(tmp_path)
    plain = parse_image(image.read_bytes())
    code, output, _ = _pack(
        tmp_path, "--name", "n", "--version", "9", "--memory-mib", "512", "--cpus", "4", "--arch", "arm64"
    )
    assert code == 0
    described = parse_image(image.read_bytes())
    assert measure(described) == measure(plain)
    assert f"PCR0   {measure(plain).pcr0.hex()}" in output
    assert (described.default_memory_bytes, described.default_cpus) == (512 << 20, 4)
    assert described.architecture is Architecture.ARM64
    metadata = json.loads(described.metadata or b"")
    assert (metadata["ImageName"], metadata["ImageVersion"]) == ("n", "9")
    assert metadata.keys() == {"ImageName", "ImageVersion", "BuildMetadata", "DockerInfo", "CustomMetadata"}


def test_pack_names_the_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Exit 2 and one line; no image is left behind."""
    code, output, image = _pack(tmp_path, "--ramdisk", str(tmp_path / "absent"))
    assert code == 2
    assert output == f"image pack: {tmp_path / 'absent'}: No such file or directory\n"
    assert not image.exists()


def test_pack_refuses_more_parts_than_an_image_has_room_for(tmp_path: Path) -> None:
    """The format has 32 sections."""
    (tmp_path / "more").write_bytes(b"more")
    more = [part for _ in range(30) for part in ("--ramdisk", str(tmp_path / "more"))]
    code, output, image = _pack(tmp_path, *more)
    assert (code, image.exists()) == (2, False)
    assert output == "image pack: 35 sections; an image has at most 32\n"
