"""`nitro-signer image pcrs`: output and exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.workers.image.parts import APPLICATION, BOOT, COMMAND_LINE, KERNEL, METADATA
from workers.cli.image import app
from workers.image import measure, pack_image, parse_image

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
