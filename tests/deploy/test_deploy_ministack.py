"""The templates on MiniStack's CloudFormation, and the whole local stack on the queues and tables they make."""

import json
from pathlib import Path

import pytest

from local.foundation import ACCOUNT
from local.ministack import run_ministack
from tests.deploy.cloud import Account
from tests.deploy.template import CLOUDFORMATION, Rendered
from tests.deploy.test_deploy_policies import SERVICE
from tests.stack.harness import ROOT, Client, Up

PYTHON = ROOT / ".venv-ministack" / "bin" / "python"
SERVICES = "sqs,dynamodb,sts,imds,cloudformation,iam,kms,s3,cloudwatch"

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-ministack: run `make setup`"),
]

PEOPLE = {
    name: f"arn:aws:iam::{ACCOUNT}:role/{role}"
    for name, role in (("AdminArns", "Admin"), ("JobSenderArns", "Sender"), ("ReplyReaderArns", "Reader"))
}
IMAGES = {"GeneratorPcr0s": "a1" * 48, "SignerPcr0s": "b1" * 48}


def foundation() -> str:
    """Return the text of the foundation's template."""
    return (CLOUDFORMATION / "foundation.yaml").read_text()


async def test_foundation_in_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without images first, then with them: what is made has the protection that the template gives it."""
    monkeypatch.setattr("local.ministack.SERVICES", SERVICES)
    async with run_ministack(PYTHON, tmp_path / "state", log=tmp_path / "log") as running:
        account = Account(running.endpoint_url)
        account.deploy("foundation", foundation(), PEOPLE)
        sqs, dynamodb, iam = (account.client(name) for name in ("sqs", "dynamodb", "iam"))
        for name in ("generate", "sign", "reply"):
            url = sqs.get_queue_url(QueueName=f"nitro-signer-{name}")["QueueUrl"]
            attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            assert attributes["SqsManagedSseEnabled"] == "true"
            assert f"nitro-signer-{name}-dlq" in attributes["RedrivePolicy"]
            assert "DenyTakingToOthers" in attributes["Policy"]
        for name in ("UserToken", "UserTokenBirth", "UserTokenFreeze"):
            assert dynamodb.describe_table(TableName=name)["Table"]["DeletionProtectionEnabled"] is True
        account.deploy("foundation", foundation(), PEOPLE | IMAGES, update=True)
        roles = {role["RoleName"]: role for role in iam.list_roles()["Roles"]}
        (generator,) = (name for name in roles if "GeneratorRole" in name)
        assert set(iam.list_role_policies(RoleName=generator)["PolicyNames"]) == {"work", "attested"}


async def test_alarms_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudWatch takes the alarms of the service: all but those with metric math, which MiniStack does not know."""
    monkeypatch.setattr("local.ministack.SERVICES", SERVICES)
    alarms = {
        name: {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}
        for name, properties in Rendered("service.yaml", SERVICE).of_type("AWS::CloudWatch::Alarm").items()
        if "Metrics" not in properties
    }
    async with run_ministack(PYTHON, tmp_path / "state", log=tmp_path / "log") as running:
        account = Account(running.endpoint_url)
        account.deploy("alarms", json.dumps({"Resources": alarms}), {})
        made = account.client("cloudwatch").describe_alarms()["MetricAlarms"]
        assert len(made) == len(alarms)


async def test_jobs_go_all_the_way_on_the_templates_queues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is born and signs on queues and tables that the template has made, not the local stack itself."""
    state = tmp_path / "stack"
    monkeypatch.setattr("local.ministack.SERVICES", SERVICES)
    async with run_ministack(PYTHON, state / "ministack", log=tmp_path / "log") as running:
        account = Account(running.endpoint_url)
        account.deploy("foundation", foundation(), PEOPLE)
    up = Up(state)
    try:
        client = Client(up.facts)
        born = client.ask("generate", {"type": "generate", "userid": "u001"})
        signed = client.ask("sign", {"type": "sign", "userid": "u001", "message": "Hello World"})
        assert (born["status"], signed["status"], signed["verified"]) == ("ok", "ok", True)
        assert signed["publickey"] == born["publickey"]
        answer = client.sqs.get_queue_attributes(QueueUrl=up.facts["sign_queue_url"], AttributeNames=["All"])
        assert "DenySendingToOthers" in answer["Attributes"]["Policy"], "these are not the template's queues"
        assert client.dynamodb.describe_table(TableName="UserToken")["Table"]["DeletionProtectionEnabled"] is True
    finally:
        assert up.stop() == 0
