"""The policies of the foundation: the key policy is the one that we make, and roles may do what the code does."""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from config.engine import EngineSettings
from config.keypolicy import (
    AllowedImages,
    Policies,
    Principal,
    Request,
    attestation_context,
    evaluate,
    make_identity_policy,
    make_key_policy,
    parse_policy,
)
from config.keypolicy.check import check_policy
from config.keypolicy.conditions import RequestContext
from config.keypolicy.model import PolicyKind
from tests.deploy.template import ROOT, Rendered
from workers.brakes import BRAKE_KEY
from workers.keys.keystore import _BIRTH_KEY, _RECORD_KEY

ADMIN = "arn:aws:iam::111122223333:role/Admin"
SENDER = "arn:aws:iam::111122223333:role/Sender"
READER = "arn:aws:iam::111122223333:role/Reader"
PEOPLE = {"AdminArns": ADMIN, "JobSenderArns": SENDER, "ReplyReaderArns": READER}
GENERATOR_PCR0, NEXT_PCR0, SIGNER_PCR0, PCR8 = "a1" * 48, "a2" * 48, "b1" * 48, "c8" * 48
IMAGES = {"GeneratorPcr0s": f"{GENERATOR_PCR0},{NEXT_PCR0}", "SignerPcr0s": SIGNER_PCR0}
SIGNED = {"SigningCertificatePcr8s": PCR8}


def foundation(*more: Mapping[str, str]) -> Rendered:
    """Return the foundation with sample parameters."""
    parameters = dict(PEOPLE)
    for part in more:
        parameters |= part
    return Rendered("foundation.yaml", parameters)


def made_policy(rendered: Rendered, others: Mapping[int, tuple[str, ...]]) -> dict[str, Any]:
    """Return what `nitro-signer policy make` gives for the same images."""
    return make_key_policy(
        generator_role_arn=rendered.arn("GeneratorRole"),
        generator_images=AllowedImages((GENERATOR_PCR0, NEXT_PCR0), others),
        signer_role_arn=rendered.arn("SignerRole"),
        signer_images=AllowedImages((SIGNER_PCR0,), others),
        admin_arns=[ADMIN],
    )


def test_key_policy_is_the_one_that_we_make() -> None:
    """The template's key policy and that of `policy make` are equal, for signed and unsigned images."""
    unsigned = foundation(IMAGES)
    assert unsigned.properties("Key")["KeyPolicy"] == made_policy(unsigned, {})
    signed = foundation(IMAGES, SIGNED)
    assert signed.properties("Key")["KeyPolicy"] == made_policy(signed, {8: (PCR8,)})


def test_without_images_nobody_can_use_the_key() -> None:
    """The first deployment has the statements of the made policy that do not speak of images, and no others."""
    bare = foundation(SIGNED)
    statements = bare.properties("Key")["KeyPolicy"]["Statement"]
    assert [statement["Sid"] for statement in statements] == ["AdministratorsManage", "DenyWaysAround"]
    made = made_policy(bare, {})["Statement"]
    assert all(statement in made for statement in statements)
    assert not {"GeneratorKeyPolicy", "SignerKeyPolicy"} & bare.resources.keys()


def test_random_numbers_only_for_the_image() -> None:
    """The generator's IAM policy holds the statements that `policy make --iam` prints."""
    for more, others in (({}, {}), (SIGNED, {8: (PCR8,)})):
        statements = foundation(IMAGES, more).properties("GeneratorKeyPolicy")["PolicyDocument"]["Statement"]
        made = make_identity_policy(AllowedImages((GENERATOR_PCR0, NEXT_PCR0), others))["Statement"]
        assert [statement for statement in statements if statement in made] == made


def test_no_weakness_is_found_in_the_key_policy() -> None:
    """`policy check` has nothing to say about the template's policy."""
    policy = foundation(IMAGES, SIGNED).properties("Key")["KeyPolicy"]
    assert check_policy(parse_policy(json.dumps(policy), PolicyKind.KEY)) == []


GENERATE, DECRYPT, RANDOM = "kms:GenerateDataKey", "kms:Decrypt", "kms:GenerateRandom"
DECISIONS = [
    ("GeneratorRole", GENERATOR_PCR0, GENERATE, True),
    ("GeneratorRole", NEXT_PCR0, GENERATE, True),
    ("GeneratorRole", GENERATOR_PCR0, RANDOM, True),
    ("SignerRole", SIGNER_PCR0, DECRYPT, True),
    ("GeneratorRole", GENERATOR_PCR0, DECRYPT, False),
    ("GeneratorRole", SIGNER_PCR0, GENERATE, False),
    ("GeneratorRole", SIGNER_PCR0, DECRYPT, False),
    ("GeneratorRole", SIGNER_PCR0, RANDOM, False),
    ("GeneratorRole", None, GENERATE, False),
    ("GeneratorRole", None, RANDOM, False),
    ("SignerRole", GENERATOR_PCR0, DECRYPT, False),
    ("SignerRole", GENERATOR_PCR0, GENERATE, False),
    ("SignerRole", SIGNER_PCR0, GENERATE, False),
    ("SignerRole", SIGNER_PCR0, RANDOM, False),
    ("SignerRole", None, DECRYPT, False),
    ("SignerRole", "00" * 48, DECRYPT, False),
    ("Admin", SIGNER_PCR0, DECRYPT, False),
    ("Admin", None, "kms:PutKeyPolicy", True),
    ("Admin", None, "kms:Encrypt", False),
    ("Admin", None, "kms:CreateGrant", False),
    ("SignerRole", SIGNER_PCR0, "kms:ReEncryptFrom", False),
]


@pytest.mark.parametrize(("who", "pcr0", "action", "is_allowed"), DECISIONS)
def test_decisions(who: str, pcr0: str | None, action: str, is_allowed: bool) -> None:  # noqa: FBT001 - a table's row
    """Key policy and IAM policies together decide as design.md section 2 demands."""
    rendered = foundation(IMAGES)
    identity = {
        name: parse_policy(json.dumps(body["PolicyDocument"]), PolicyKind.IDENTITY)
        for name, body in rendered.of_type("AWS::IAM::Policy").items()
        if who in body["Roles"]
    }
    key = parse_policy(json.dumps(rendered.properties("Key")["KeyPolicy"]), PolicyKind.KEY)
    arn = ADMIN if who == "Admin" else rendered.arn(who)
    caller = Principal.parse(arn)
    pcrs = {} if pcr0 is None else {0: bytes.fromhex(pcr0)}
    has_key = action != RANDOM
    request = Request(
        action=action,
        principal=caller,
        resource=rendered.arn("Key") if has_key else "*",
        context=RequestContext.of(
            {"aws:PrincipalArn": caller.principal_arn, "aws:PrincipalAccount": caller.account},
            attestation_context(pcrs),
        ),
    )
    decision = evaluate(Policies(key if has_key else None, identity), request)
    assert decision.is_allowed == is_allowed


# What the code calls, and what the roles may

_IAM_OF_METHOD = {
    "receive_message": "sqs:ReceiveMessage",
    "send_message_batch": "sqs:SendMessage",
    "delete_message_batch": "sqs:DeleteMessage",
    "change_message_visibility_batch": "sqs:ChangeMessageVisibility",
    "get_item": "dynamodb:GetItem",
    "batch_get_item": "dynamodb:BatchGetItem",
    "put_item": "dynamodb:PutItem",
    "scan": "dynamodb:Scan",
    "generate_random": "kms:GenerateRandom",
    "generate_data_key": "kms:GenerateDataKey",
    "decrypt": "kms:Decrypt",
    "get_queue_attributes": "sqs:GetQueueAttributes",
    "describe_table": "dynamodb:DescribeTable",
}
"""SDK method and the action that IAM asks for (Service Authorization Reference): batches count as their single call."""

_OF_AUDITORS = {"dynamodb:Scan"}
"""`nitro-signer key prove --all` runs with an auditor's own credentials."""

_CLIENTS = ("workers/queue/sqs.py", "workers/keys/dynamodb.py", "enclave/kms.py")
"""Modules that hold an SDK client as `self._client`."""


def methods_called(path: str) -> set[str]:
    """Return the attributes of `self._client` that a module uses."""
    found = {
        node.attr
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "_client"
        and isinstance(node.value.value, ast.Name)
    }
    assert found, f"{path} makes no call any more: look again at _CLIENTS"
    return found


def allowed(rendered: Rendered, role: str) -> Iterator[tuple[str, str]]:
    """Yield each action and resource that a role's own policies allow."""
    for body in rendered.of_type("AWS::IAM::Policy").values():
        if role not in body["Roles"]:
            continue
        for statement in body["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow":
                for action in as_list(statement["Action"]):
                    for resource in as_list(statement["Resource"]):
                        yield action, resource.rpartition(":")[2]


def as_list(value: str | list[str]) -> list[str]:
    """Return one or several as a list."""
    return [value] if isinstance(value, str) else value


EXAMINED = {"sqs:GetQueueAttributes", "dynamodb:DescribeTable"}
"""What `nitro-signer doctor` asks."""
LIVING = {
    "autoscaling:CompleteLifecycleAction",
    "logs:CreateLogStream",
    "logs:DescribeLogStreams",
    "logs:PutLogEvents",
}
"""What the scripts of an instance and the CloudWatch agent ask."""


def test_roles_together_may_do_exactly_what_the_code_does() -> None:
    """Every call of the code is allowed to a role, and no action is allowed that no code asks for."""
    called = {_IAM_OF_METHOD[method] for path in _CLIENTS for method in methods_called(path)} | EXAMINED | LIVING
    rendered = foundation(IMAGES)
    granted = {action for role in ("GeneratorRole", "SignerRole") for action, _ in allowed(rendered, role)}
    assert granted == called - _OF_AUDITORS


def test_each_role_has_its_own_things_only() -> None:
    """The whole table of what each role may do with what, as design.md 2.7 has it: no update, no delete."""
    rendered = foundation(IMAGES)
    key = rendered.arn("Key").rpartition(":")[2]
    work = {
        "GeneratorRole": {
            ("sqs:ReceiveMessage", "GenerateQueue"),
            ("sqs:DeleteMessage", "GenerateQueue"),
            ("sqs:ChangeMessageVisibility", "GenerateQueue"),
            ("sqs:SendMessage", "ReplyQueue"),
            ("sqs:SendMessage", "GenerateDeadLetterQueue"),
            ("dynamodb:GetItem", "KeyTable"),
            ("dynamodb:PutItem", "KeyTable"),
            ("dynamodb:GetItem", "BirthTable"),
            ("dynamodb:PutItem", "BirthTable"),
            ("kms:GenerateDataKey", key),
            ("kms:GenerateRandom", "*"),
        },
        "SignerRole": {
            ("sqs:ReceiveMessage", "SignQueue"),
            ("sqs:DeleteMessage", "SignQueue"),
            ("sqs:ChangeMessageVisibility", "SignQueue"),
            ("sqs:SendMessage", "ReplyQueue"),
            ("sqs:SendMessage", "SignDeadLetterQueue"),
            ("dynamodb:GetItem", "KeyTable"),
            ("dynamodb:BatchGetItem", "KeyTable"),
            ("dynamodb:GetItem", "BrakeTable"),
            ("dynamodb:BatchGetItem", "BrakeTable"),
            ("kms:Decrypt", key),
        },
    }
    for role, expected in work.items():
        assert {pair for pair in allowed(rendered, role) if pair[0] not in EXAMINED | LIVING} == expected


def test_each_role_speaks_for_itself_only() -> None:
    """An instance writes to the log group of its own role, and ends hooks of its own group, and of no other."""
    rendered = foundation(IMAGES)
    for name, role in (("GeneratorWorkPolicy", "generator"), ("SignerWorkPolicy", "signer")):
        statements = rendered.properties(name)["PolicyDocument"]["Statement"]
        resources = {statement["Sid"]: statement["Resource"] for statement in statements}
        assert resources["WriteLogs"].endswith(f":log-group:/nitro-signer/{role}:*")
        assert resources["EndHooks"].endswith(f":autoScalingGroupName/nitro-signer-{role}")
        actions = {action for statement in statements for action in as_list(statement["Action"])}
        assert actions >= LIVING


def test_endpoints_let_through_what_roles_may() -> None:
    """The policies of the VPC endpoints name the same actions as the roles' policies, service by service."""
    rendered = foundation(IMAGES)
    granted = {action for role in ("GeneratorRole", "SignerRole") for action, _ in allowed(rendered, role)}
    for statement in rendered.properties("InstancePolicy")["PolicyDocument"]["Statement"]:
        granted |= set(as_list(statement["Action"]))
    service = Rendered("service.yaml", SERVICE)
    granted |= {
        action
        for policy in service.of_type("AWS::IAM::Policy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        for action in as_list(statement["Action"])
    }
    let_through = {
        action
        for endpoint in service.of_type("AWS::EC2::VPCEndpoint").values()
        for statement in endpoint["PolicyDocument"]["Statement"]
        for action in as_list(statement["Action"])
    }
    assert let_through == granted


SERVICE = {
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
    "RouteTableIds": "rtb-1",
    "Release": "1",
    "GeneratorPcr0": GENERATOR_PCR0,
    "SignerPcr0": SIGNER_PCR0,
    "TrailLogGroup": "trail",
}


def test_no_wildcard_action_is_allowed() -> None:
    """No Allow of either template names an action by a wildcard; no resource is * where it could have a name."""
    for name, parameters in (("foundation.yaml", {**PEOPLE, **IMAGES}), ("service.yaml", SERVICE)):
        for resource, body in Rendered(name, parameters).resources.items():
            document = body["Properties"].get("PolicyDocument", {})
            for statement in document.get("Statement", ()):
                if statement["Effect"] != "Allow":
                    continue
                assert not any("*" in action for action in as_list(statement["Action"])), resource
                is_resource_policy = "Principal" in statement
                if "*" in as_list(statement["Resource"]) and not is_resource_policy:
                    assert statement["Action"] == "kms:GenerateRandom", resource


def test_queues_have_dead_letter_queues_and_encryption() -> None:
    """Each queue is encrypted; each that takes messages of others redrives, later than the worker itself gives up."""
    queues = foundation().of_type("AWS::SQS::Queue")
    gives_up = EngineSettings.model_fields["max_receive_count"].default
    visibility = EngineSettings.model_fields["visibility_timeout_s"].default
    for name, queue in queues.items():
        assert queue["SqsManagedSseEnabled"] is True, name
        if "DeadLetter" in name:
            assert queue["MessageRetentionPeriod"] == 14 * 86400
            continue
        assert queue["RedrivePolicy"]["maxReceiveCount"] > gives_up, name
        assert queue["RedrivePolicy"]["deadLetterTargetArn"].endswith(name.replace("Queue", "DeadLetterQueue"))
        if name != "ReplyQueue":
            assert queue["VisibilityTimeout"] == visibility


def test_tables_are_protected() -> None:
    """All tables: deletion protection, point-in-time recovery, encryption, and the keys that the code uses."""
    tables = foundation().of_type("AWS::DynamoDB::Table")
    assert {name: table["KeySchema"][0]["AttributeName"] for name, table in tables.items()} == {
        "KeyTable": _RECORD_KEY,
        "BirthTable": _BIRTH_KEY,
        "BrakeTable": BRAKE_KEY,
    }
    for table in tables.values():
        assert table["DeletionProtectionEnabled"] is True
        assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
        assert table["SSESpecification"] == {"SSEEnabled": True}


def test_only_senders_send_and_only_readers_read() -> None:
    """The Denies of the queue policies spare those who are named, the administrators who redrive, and our roles."""
    rendered = foundation()
    spared: dict[tuple[str, str], set[str]] = {}
    for body in rendered.of_type("AWS::SQS::QueuePolicy").values():
        for statement in body["PolicyDocument"]["Statement"]:
            if "ArnNotEquals" in statement.get("Condition", {}):
                for queue in body["Queues"]:
                    spared[queue, statement["Sid"]] = set(
                        as_list(statement["Condition"]["ArnNotEquals"]["aws:PrincipalArn"])
                    )
    generator, signer = rendered.arn("GeneratorRole"), rendered.arn("SignerRole")
    assert spared == {
        ("GenerateQueue", "DenySendingToOthers"): {SENDER, ADMIN},
        ("GenerateQueue", "DenyTakingToOthers"): {generator},
        ("SignQueue", "DenySendingToOthers"): {SENDER, ADMIN},
        ("SignQueue", "DenyTakingToOthers"): {signer},
        ("ReplyQueue", "DenySendingToOthers"): {generator, signer, ADMIN},
        ("ReplyQueue", "DenyTakingToOthers"): {READER},
        **{(f"{name}DeadLetterQueue", "DenyTakingToOthers"): {ADMIN} for name in ("Generate", "Sign", "Reply")},
    }
