"""Both stacks on moto's CloudFormation, and the whole service on the queues and tables that it makes.

moto makes Auto Scaling groups and launch templates, which MiniStack does not; it has no queue policies, alarms, metric
filters and queries. It takes no update, no `AWS::NoValue` in a condition and no `!ImportValue` of YAML's short form:
hence signed images from the start, and the service's template as JSON.
"""

import base64
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from local.foundation import REGION
from local.stack_options import AwsEndpoints
from tests.chaos.run import ChaosOptions, run_chaos
from tests.deploy.cloud import Account
from tests.deploy.template import CLOUDFORMATION, load
from tests.servers.servers import MOTO, serving

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(600),
    pytest.mark.skipif(MOTO.missing is not None, reason=f"NOT TESTED: {MOTO.missing}"),
]

ACCOUNT = "123456789012"
FOUNDATION = {
    **{
        name: f"arn:aws:iam::{ACCOUNT}:role/{role}"
        for name, role in (("AdminArns", "Admin"), ("JobSenderArns", "Sender"), ("ReplyReaderArns", "Reader"))
    },
    "GeneratorPcr0s": "a1" * 48,
    "SignerPcr0s": "b1" * 48,
    "SigningCertificatePcr8s": "c8" * 48,
}
JOBS = 30
"""moto walks its whole queue for each receive."""


@pytest.fixture
async def moto(tmp_path: Path) -> AsyncGenerator[Account, None]:
    """A moto with the foundation."""
    async with serving(MOTO, tmp_path / "moto.log") as url:
        account = Account(url)
        account.deploy("nitro-signer-foundation", (CLOUDFORMATION / "foundation.yaml").read_text(), FOUNDATION)
        yield account


async def test_the_service_stack_fits_the_foundation(moto: Account) -> None:
    """Instances are launched with enclaves, by the role of the foundation, and are told of things that exist."""
    ec2 = moto.client("ec2")
    moto.deploy(
        "nitro-signer-service",
        json.dumps(load("service.yaml")),
        {
            "VpcId": ec2.describe_vpcs()["Vpcs"][0]["VpcId"],
            "SubnetIds": ",".join(subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]),
            "RouteTableIds": ec2.describe_route_tables()["RouteTables"][0]["RouteTableId"],
            "Release": "1",
            "GeneratorPcr0": "a1" * 48,
            "SignerPcr0": "b1" * 48,
        },
    )
    groups = {
        group["AutoScalingGroupName"]: group
        for group in moto.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    }
    assert {name: len(group["Instances"]) for name, group in groups.items()} == {
        "nitro-signer-generator": 1,
        "nitro-signer-signer": 2,
    }
    for role, kind in (("generator", "generate"), ("signer", "sign")):
        template = groups[f"nitro-signer-{role}"]["LaunchTemplate"]["LaunchTemplateId"]
        (version,) = ec2.describe_launch_template_versions(LaunchTemplateId=template)["LaunchTemplateVersions"]
        data: dict[str, Any] = version["LaunchTemplateData"]
        assert (data["EnclaveOptions"], data["MetadataOptions"]["HttpTokens"]) == ({"Enabled": True}, "required")
        values = env_of(base64.b64decode(data["UserData"]).decode())
        sqs = moto.client("sqs")
        paths = [urlsplit(url).path for url in sqs.list_queues()["QueueUrls"]]  # at moto's own address
        for name, queue in (
            ("QUEUE_URL", kind),
            ("DEAD_LETTER_QUEUE_URL", f"{kind}-dlq"),
            ("REPLY_QUEUE_URL", "reply"),
        ):
            assert values[name] == f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/nitro-signer-{queue}"
            assert urlsplit(values[name]).path in paths
        tables = set(moto.client("dynamodb").list_tables()["TableNames"])
        assert {values[name] for name in ("KEY_TABLE", "BIRTH_TABLE", "BRAKE_TABLE")} == tables
        assert values["KMS_KEY_ARN"] in {key["KeyArn"] for key in moto.client("kms").list_keys()["Keys"]}
        assert values["KMS_HOST"] == f"kms.{REGION}.amazonaws.com"
        assert values["SCALING_GROUP"] in groups
        assert values["LOG_GROUP"] in {group["logGroupName"] for group in log_groups(moto)}
        profile = data["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        (worn,) = moto.client("iam").get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        assert f"{role.title()}Role" in worn["RoleName"]


def env_of(user_data: str) -> dict[str, str]:
    """Return what user data writes to instance.env."""
    match = re.search(r"<<'END'\n(.*?)^END$", user_data, re.DOTALL | re.MULTILINE)
    assert match is not None
    return dict(line.split("=", 1) for line in match[1].splitlines())


def log_groups(account: Account) -> list[dict[str, Any]]:
    """Return the log groups."""
    found: list[dict[str, Any]] = account.client("logs").describe_log_groups()["logGroups"]
    return found


async def test_jobs_go_all_the_way_on_the_templates_queues(moto: Account, tmp_path: Path) -> None:
    """Every job is answered and every signature verifies, on queues and tables that the foundation has made."""
    endpoints = AwsEndpoints(moto.endpoint_url, moto.endpoint_url)
    options = ChaosOptions(seed=1, duration_s=5, jobs=JOBS, settle_timeout_s=240, endpoints=endpoints)
    report = await run_chaos(options, tmp_path / "stack")
    assert report.problems() == []
    assert report.verdict.answered >= JOBS
    sqs = moto.client("sqs")
    url = sqs.get_queue_url(QueueName="nitro-signer-sign")["QueueUrl"]
    redrive = json.loads(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]["RedrivePolicy"])
    assert int(redrive["maxReceiveCount"]) == 100, "this is not the template's queue"
    table = moto.client("dynamodb").describe_table(TableName="UserToken")["Table"]
    assert table["DeletionProtectionEnabled"] is True, "this is not the template's table"
