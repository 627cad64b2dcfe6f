"""The role's permissions as `nitro-signer doctor` simulates them, on the policies of the template and on worse ones."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from config.keypolicy import Policy, PolicyKind, parse_policy
from config.worker import WorkerRole, WorkerSettings
from tests.deploy.template import ACCOUNT, REGION
from tests.deploy.test_deploy_policies import GENERATOR_PCR0, IMAGES, foundation
from workers.doctor.finding import Grade
from workers.doctor.permissions import check_permissions

PCR0 = bytes.fromhex(GENERATOR_PCR0)
ROLES: dict[WorkerRole, str] = {"generate": "GeneratorRole", "sign": "SignerRole"}
URL = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/"


def settings() -> WorkerSettings:
    """Return settings with the names that the rendered template gives to things."""

    def role(kind: str) -> dict[str, Any]:
        engine = {
            "queue_url": f"{URL}{kind}Queue",
            "reply_queue_url": f"{URL}ReplyQueue",
            "dead_letter_queue_url": f"{URL}{kind}DeadLetterQueue",
        }
        return {"enclaves": [f"unix:///{kind}"], "engine": engine}

    file: dict[str, Any] = {
        "region": REGION,
        "generate": role("Generate"),
        "sign": role("Sign"),
        "store": {"table": "KeyTable", "birth_table": "BirthTable"},
        "brakes": {"table": "BrakeTable"},
    }
    return WorkerSettings(**file)


def documents(job: WorkerRole) -> dict[str, dict[str, Any]]:
    """Return the template's policies of a role; tables by the ARNs that DynamoDB would give them."""
    found = {
        name: body["PolicyDocument"]
        for name, body in foundation(IMAGES).of_type("AWS::IAM::Policy").items()
        if ROLES[job] in body["Roles"]
    }
    text = json.dumps(found)
    for table in ("KeyTable", "BirthTable", "BrakeTable"):
        text = text.replace(f":{table}", f":table/{table}")
    renamed: dict[str, dict[str, Any]] = json.loads(text)
    return renamed


def parsed(found: dict[str, dict[str, Any]]) -> dict[str, Policy]:
    """Return policies as the doctor reads them."""
    return {name: parse_policy(json.dumps(document), PolicyKind.IDENTITY) for name, document in found.items()}


def more(action: str, resource: str = "*") -> dict[str, Any]:
    """Return a policy that allows something more."""
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {"Version": "2012-10-17", "Statement": [statement]}


@pytest.mark.parametrize("job", ROLES)
def test_the_templates_roles_are_right(job: WorkerRole) -> None:
    """The policies of the foundation allow every call of a worker, and nothing that it must not do."""
    (found,) = check_permissions(job, settings(), parsed(documents(job)), PCR0)
    assert found.grade is Grade.OK, found


def statements_taken_away(job: WorkerRole) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield the policies of a role without one of the statements that a worker needs."""
    needless = {"WriteLogs", "EndHooks", "GeneratorMakesDataKeys", "SignerOpensDataKeys"}
    for name, document in documents(job).items():
        for statement in document["Statement"]:
            if statement["Effect"] == "Allow" and statement["Sid"] not in needless:
                left = [other for other in document["Statement"] if other is not statement]
                yield statement["Sid"], documents(job) | {name: {**document, "Statement": left}}


@pytest.mark.parametrize("job", ROLES)
def test_each_missing_permission_is_found(job: WorkerRole) -> None:
    """Without any one statement there is a failure that names a call."""
    seen = set()
    for sid, left in statements_taken_away(job):
        findings = check_permissions(job, settings(), parsed(left), PCR0)
        assert {finding.grade for finding in findings} == {Grade.FAIL}, sid
        assert all("not allowed" in finding.text for finding in findings)
        seen.add(sid)
    assert len(seen) >= 4


TOO_MUCH: list[tuple[WorkerRole, str, Grade]] = [
    ("generate", "dynamodb:DeleteItem", Grade.WARN),
    ("generate", "dynamodb:*", Grade.WARN),
    ("generate", "kms:GenerateRandom", Grade.OK),  # the template's Deny holds against it
    ("sign", "dynamodb:PutItem", Grade.WARN),
    ("sign", "dynamodb:UpdateItem", Grade.WARN),
    ("sign", "kms:GenerateRandom", Grade.WARN),
    ("sign", "sqs:*", Grade.OK),  # the queues' own policies hold against it
]


@pytest.mark.parametrize(("job", "action", "grade"), TOO_MUCH)
def test_too_much_is_found(job: WorkerRole, action: str, grade: Grade) -> None:
    """What lets a role change records, or draw what it has no use for, is a warning."""
    findings = check_permissions(job, settings(), parsed(documents(job) | {"more": more(action)}), PCR0)
    assert {finding.grade for finding in findings} == {grade}


def test_randomness_for_anybody_is_a_failure() -> None:
    """GenerateRandom without attestation, where nothing denies it."""
    open_to_all = {"work": documents("generate")["GeneratorWorkPolicy"], "more": more("kms:GenerateRandom")}
    (found,) = check_permissions("generate", settings(), parsed(open_to_all), PCR0)
    assert (found.grade, "without attestation" in found.text) == (Grade.FAIL, True)


@pytest.mark.parametrize(("pcr0", "grade"), [(bytes([9]) * 48, Grade.FAIL), (None, Grade.WARN)], ids=["other", "none"])
def test_another_image_gets_no_randomness(pcr0: bytes | None, grade: Grade) -> None:
    """An image that the role's policy does not name is a failure; one that does not say what it is, a warning."""
    (found,) = check_permissions("generate", settings(), parsed(documents("generate")), pcr0)
    assert found.grade is grade
    assert "PCR0" in found.text
