"""`nitro-signer doctor` on a local stack that runs."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.stack.harness import Client
from workers.cli.doctor import doctor

pytestmark = pytest.mark.stack

runner = CliRunner()


def run(client: Client, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    """Return exit code and findings."""
    result = invoke(client, "--json", *arguments)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def invoke(client: Client, *arguments: str) -> Result:
    """Run the command with the settings of the stack."""
    app = typer.Typer()
    app.command()(doctor)
    facts = client.facts
    environ = {
        "AWS_ENDPOINT_URL": facts["endpoint_url"],
        "AWS_ENDPOINT_URL_DYNAMODB": facts["dynamodb_endpoint_url"],
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }
    result = runner.invoke(app, ["--config", facts["worker_config"], *arguments], env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def key_policy(client: Client, folder: Path) -> str:
    """Return the path of the key's policy, as the stand-in KMS has it."""
    path = folder / "key-policy.json"
    path.write_text(client.kms.get_key_policy(KeyId=client.facts["kms_key_arn"])["Policy"])
    return str(path)


def test_a_healthy_stack(client: Client, tmp_path: Path) -> None:
    """Enclaves are ready and admitted, queues and tables are right: what is left are warnings about a laptop."""
    proxy = tmp_path / "proxy.yaml"
    port = int(client.facts["endpoint_url"].rsplit(":", 1)[1])
    proxy.write_text(
        f"allowlist: [{{address: localhost, port: {port}}}]\n"
        f"destinations: [{{listen: 'unix:///unused.sock', host: localhost, port: {port}}}]\n"
    )
    arguments = ("--key-policy", key_policy(client, tmp_path), "--proxy-config", str(proxy))
    code, found = run(client, *arguments)
    grades = {finding["check"]: finding["grade"] for finding in found}
    assert code == 1, found
    assert "fail" not in grades.values(), found
    assert [grade for name, grade in grades.items() if name.endswith("image")] == ["ok", "ok"]
    assert grades["clock"] == "ok"
    assert grades["sign queue redrive"] == "ok"


def test_a_policy_for_other_images(client: Client, tmp_path: Path) -> None:
    """With a policy that admits other images, the doctor fails and names the PCR0 to admit."""
    path = Path(key_policy(client, tmp_path))
    path.write_text(path.read_text().replace(client.facts["signer_pcr0"], "ab" * 48))
    code, found = run(client, "--key-policy", str(path))
    assert code == 2
    failed = [finding for finding in found if finding["grade"] == "fail"]
    assert [client.facts["signer_pcr0"] in finding["fix"] for finding in failed] == [True]


def test_misuse(client: Client, tmp_path: Path) -> None:
    """Files that cannot be read end the command before anything is asked."""
    broken = tmp_path / "broken"
    broken.write_text("{")
    assert run(client, "--key-policy", str(tmp_path / "none"))[0] == 2
    assert run(client, "--key-policy", str(broken))[0] == 2
    assert run(client, "--proxy-config", str(broken))[0] == 2


def test_lines_for_people(client: Client) -> None:
    """Without --json each finding is one line that begins with its grade."""
    output = invoke(client).output
    assert all(line.split()[0] in {"ok", "warn", "fail"} for line in output.splitlines())
    assert "was not compared with the key policy. Fix: --key-policy" in output
