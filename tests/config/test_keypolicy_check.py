"""The checker: each weakness is found in the statement that has it, and good policies raise no alarm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.keypolicy import AllowedImages, PolicyKind, make_identity_policy, make_key_policy, parse_policy
from config.keypolicy.check import Weakness, check_policy

ROOT = "arn:aws:iam::111122223333:root"
ROLE = "arn:aws:iam::111122223333:role/Signer"
OTHER_ROLE = "arn:aws:iam::111122223333:role/Generator"
ADMIN = "arn:aws:iam::111122223333:role/Admin"
PCR0, PCR1, PCR2, PCR8 = ("ab" * 48, "cd" * 48, "ef" * 48, "12" * 48)
PREFIX = "kms:RecipientAttestation:"


def allow(action: Any = "kms:Decrypt", principal: Any = ROLE, **elements: Any) -> dict[str, Any]:
    """Return an Allow named Use; None takes an element away."""
    who = "*" if principal == "*" else {"AWS": principal}
    made = {"Sid": "Use", "Effect": "Allow", "Principal": who, "Action": action, "Resource": "*", **elements}
    return {name: value for name, value in made.items() if value is not None}


def deny(action: Any = "kms:Decrypt", principal: Any = "*", **elements: Any) -> dict[str, Any]:
    """Return a Deny named Stop."""
    return allow(action, principal, **{"Sid": "Stop", "Effect": "Deny", **elements})


def when(operator: str = "StringEqualsIgnoreCase", /, **pcrs: Any) -> dict[str, Any]:
    """Return a Condition element over attestation keys."""
    return {"Condition": {operator: {f"{PREFIX}{name}": value for name, value in pcrs.items()}}}


NOT = "StringNotEqualsIgnoreCase"
USE_BUT = deny("kms:*", None, NotAction=["kms:PutKeyPolicy", "kms:GetKeyPolicy"], Action=None, Principal="*")

# name, statements, what is found: (Sid, weakness) of each
KEY_POLICIES: list[tuple[str, list[dict[str, Any]], list[tuple[str, Weakness]]]] = [
    (
        "the well-known demo",
        [
            allow(["kms:PutKeyPolicy", "kms:DescribeKey"], ADMIN, Sid="Admin"),
            deny(principal=ROLE, **when(NOT, ImageSha384=PCR0, PCR0=PCR0, PCR1=PCR1, PCR2=PCR2)),
            allow(),
        ],
        [("Stop", Weakness.NEGATED_KEYS_ANDED), ("Use", Weakness.UNATTESTED_USE)],
    ),
    ("the image", [allow(**when(PCR0=PCR0))], []),
    ("the image by its other name", [allow(**when(ImageSha384=PCR0))], []),
    ("several keys are ANDed the safe way", [allow(**when(PCR0=PCR0, PCR1=PCR1, PCR2=PCR2))], []),
    ("two generations", [allow(**when(PCR0=[PCR0, PCR2]))], []),
    ("the signer of the image", [allow(**when(PCR8=PCR8))], []),
    ("StringEquals with lower case", [allow(**when("StringEquals", PCR0=PCR0))], []),
    ("upper case where it does not matter", [allow(**when(PCR0=PCR0.upper()))], []),
    ("both use actions", [allow(["kms:Decrypt", "kms:GenerateDataKey"], **when(PCR0=PCR0))], []),
    ("any value of the key", [allow(**when("ForAnyValue:StringEquals", PCR0=PCR0))], []),
    ("open Allow behind a good Deny", [allow(), deny(**when(NOT, PCR0=PCR0))], []),
    ("open Allow behind a good Deny for its role", [allow(), deny(principal=ROLE, **when(NOT, PCR0=PCR0))], []),
    (
        "open Allow behind a Deny for each key",
        [allow(), deny(**when(NOT, PCR0=PCR0)), deny(**when(NOT, PCR1=PCR1))],
        [],
    ),
    (
        "a needless Deny beside a good one",
        [allow(), deny(**when(NOT, PCR0=PCR0)), deny(Sid="Two", **when(NOT, PCR0=PCR0, PCR1=PCR1))],
        [],
    ),
    ("administrators without use", [allow(["kms:PutKeyPolicy", "kms:Describe*", "kms:List*"], ADMIN)], []),
    ("the account without use", [allow(["kms:DescribeKey", "kms:PutKeyPolicy"], ROOT)], []),
    ("the account behind flat Denies", [allow("kms:*", ROOT), USE_BUT], []),
    (
        "encryption context besides",
        [
            allow(
                Condition={
                    "StringEqualsIgnoreCase": {f"{PREFIX}PCR0": PCR0},
                    "StringLike": {"kms:EncryptionContext:userid": "u*"},
                }
            )
        ],
        [],
    ),
    ("other services", [allow("s3:GetObject")], []),
    ("open Allow", [allow()], [("Use", Weakness.UNATTESTED_USE)]),
    ("open GenerateDataKey", [allow("kms:GenerateDataKey", OTHER_ROLE)], [("Use", Weakness.UNATTESTED_USE)]),
    ("use by wildcard", [allow("kms:Dec*")], [("Use", Weakness.UNATTESTED_USE)]),
    (
        "conditioned on something else",
        [allow(Condition={"Bool": {"aws:SecureTransport": True}})],
        [("Use", Weakness.UNATTESTED_USE)],
    ),
    (
        "a Deny for another role does not help",
        [allow(), deny(principal=OTHER_ROLE, **when(NOT, PCR0=PCR0))],
        [("Use", Weakness.UNATTESTED_USE)],
    ),
    (
        "a Deny of another action does not help",
        [allow(), deny("kms:Encrypt", **when(NOT, PCR0=PCR0))],
        [("Use", Weakness.UNATTESTED_USE)],
    ),
    ("a Deny on PCR1 alone does not help", [allow(), deny(**when(NOT, PCR1=PCR1))], [("Use", Weakness.UNATTESTED_USE)]),
    (
        "a Deny that an absent key escapes does not help",
        [allow(), deny(**when("ForAnyValue:" + NOT, PCR0=PCR0))],
        [("Use", Weakness.UNATTESTED_USE)],
    ),
    ("a positive Deny does not help", [allow(), deny(**when(PCR0=PCR0))], [("Use", Weakness.UNATTESTED_USE)]),
    (
        "a Deny with one more condition does not help",
        [allow(), deny(Condition={NOT: {f"{PREFIX}PCR0": PCR0}, "Bool": {"aws:SecureTransport": True}})],
        [("Use", Weakness.UNATTESTED_USE)],
    ),
    (
        "a Deny of some keys does not help",
        [allow(), deny(Resource="arn:aws:kms:us-east-1:111122223333:key/x")],
        [("Use", Weakness.UNATTESTED_USE)],
    ),
    (
        "a Deny with exceptions does not help",
        [allow(), deny(Principal=None, NotPrincipal={"AWS": [ROLE, ROOT]})],
        [("Use", Weakness.UNATTESTED_USE)],
    ),
    (
        "the account decides",
        [allow("kms:*", ROOT, Sid="Root")],
        [("Root", Weakness.ACCOUNT_DECIDES), ("Root", Weakness.MINTS_CIPHERTEXT), ("Root", Weakness.GRANTS)],
    ),
    ("the account by its number", [allow("kms:Decrypt", "111122223333")], [("Use", Weakness.ACCOUNT_DECIDES)]),
    ("everybody", [allow(principal="*")], [("Use", Weakness.OPEN_TO_EVERYONE)]),
    (
        "an administrator with use",
        [allow(["kms:PutKeyPolicy", "kms:Decrypt"], ADMIN)],
        [("Use", Weakness.ADMIN_WITH_USE)],
    ),
    ("grants", [allow(["kms:PutKeyPolicy", "kms:Create*"], ADMIN)], [("Use", Weakness.GRANTS)]),
    ("Encrypt", [allow("kms:Encrypt")], [("Use", Weakness.MINTS_CIPHERTEXT)]),
    ("re-encryption", [allow("kms:ReEncrypt*")], [("Use", Weakness.MINTS_CIPHERTEXT)]),
    (
        "a data key that nobody sees",
        [allow("kms:GenerateDataKeyWithoutPlaintext")],
        [("Use", Weakness.MINTS_CIPHERTEXT)],
    ),
    ("Encrypt that never matches", [allow(["kms:Decrypt", "kms:Encrypt"], **when(PCR0=PCR0))], []),
    ("Allow with a negated operator", [allow(**when(NOT, PCR0=PCR1))], [("Use", Weakness.ALLOW_WITH_NEGATION)]),
    ("Allow if there is a key", [allow(**when("StringEqualsIfExists", PCR0=PCR0))], [("Use", Weakness.ABSENT_PASSES)]),
    ("Allow of all values", [allow(**when("ForAllValues:StringEquals", PCR0=PCR0))], [("Use", Weakness.ABSENT_PASSES)]),
    ("the kernel alone", [allow(**when(PCR1=PCR1))], [("Use", Weakness.PART_OF_IMAGE)]),
    ("the application alone", [allow(**when(PCR2=PCR2))], [("Use", Weakness.PART_OF_IMAGE)]),
    ("any enclave", [allow(**when("Null", PCR0="false"))], [("Use", Weakness.PART_OF_IMAGE)]),
    ("debug mode", [allow(**when(PCR0=["00" * 48, PCR0]))], [("Use", Weakness.ZERO_PCR)]),
    ("debug mode spared by the Deny", [allow(), deny(**when(NOT, PCR0="00" * 48))], [("Stop", Weakness.ZERO_PCR)]),
    ("upper case", [allow(**when("StringEquals", PCR0=PCR0.upper()))], [("Use", Weakness.WRONG_CASE)]),
    (
        "upper case in a Deny",
        [allow(), deny(**when("StringNotEquals", PCR0=PCR0.upper()))],
        [("Stop", Weakness.WRONG_CASE)],
    ),
    ("a wildcard", [allow(**when("StringLike", PCR0="ab*"))], [("Use", Weakness.BAD_VALUE)]),
    ("Base64 as in CloudTrail", [allow(**when(PCR0="q6ur"))], [("Use", Weakness.BAD_VALUE)]),
    ("an index that is none", [allow(**when(PCR0=PCR0, PCR32=PCR1))], [("Use", Weakness.UNKNOWN_KEY)]),
    (
        "a misspelt key",
        [allow(**when(ImageSha256=PCR0))],
        [("Use", Weakness.UNKNOWN_KEY), ("Use", Weakness.PART_OF_IMAGE)],
    ),
    ("no Resource", [allow(Resource=None, **when(PCR0=PCR0))], [("Use", Weakness.NO_EFFECT)]),
    ("no Action", [allow(None)], [("Use", Weakness.NO_EFFECT)]),
    ("GenerateRandom", [allow("kms:generaterandom")], [("Use", Weakness.RANDOM_IN_KEY_POLICY)]),
    ("no Sid", [allow(Sid=None, **when(PCR0=PCR0))], [("statement 1", Weakness.NO_SID)]),
]


@pytest.mark.parametrize(
    ("statements", "expected"), [row[1:] for row in KEY_POLICIES], ids=[row[0] for row in KEY_POLICIES]
)
def test_each_weakness_is_found_where_it_is(
    statements: list[dict[str, Any]], expected: list[tuple[str, Weakness]]
) -> None:
    """The findings are exactly these: none is missed, and none is invented."""
    policy = parse_policy(json.dumps({"Version": "2012-10-17", "Statement": statements}), PolicyKind.KEY)
    assert expected == [(finding.statement, finding.weakness) for finding in check_policy(policy)]


def test_every_weakness_has_a_case() -> None:
    """No kind of finding is untested."""
    assert set(Weakness) == {weakness for _, _, expected in KEY_POLICIES for _, weakness in expected}


def test_a_finding_is_one_line_with_its_fix() -> None:
    """Text and fix are for a person, on one line each."""
    for _, statements, _ in KEY_POLICIES:
        for finding in check_policy(parse_policy(json.dumps({"Statement": statements}), PolicyKind.KEY)):
            assert finding.text
            assert finding.fix
            assert "\n" not in finding.text + finding.fix


IMAGES = AllowedImages((PCR0, PCR1), {8: (PCR8,)})


def test_the_made_policies_have_no_weakness() -> None:
    """What `policy make` prints passes `policy check`."""
    made = make_key_policy(
        generator_role_arn=OTHER_ROLE,
        generator_images=IMAGES,
        signer_role_arn=ROLE,
        signer_images=AllowedImages((PCR2,)),
        admin_arns=[ADMIN],
    )
    assert check_policy(parse_policy(json.dumps(made), PolicyKind.KEY)) == []
    iam = parse_policy(json.dumps(make_identity_policy(IMAGES)), PolicyKind.IDENTITY)
    assert check_policy(iam) == []


@pytest.mark.parametrize("action", ["kms:GenerateRandom", "kms:Decrypt"])
def test_an_iam_policy_without_attestation_is_weak(action: str) -> None:
    """GenerateRandom counts there, because IAM alone can condition it."""
    statement = {"Sid": "Use", "Effect": "Allow", "Action": action, "Resource": "*"}
    policy = parse_policy(json.dumps({"Statement": statement}), PolicyKind.IDENTITY)
    assert [finding.weakness for finding in check_policy(policy)] == [Weakness.UNATTESTED_USE]


def test_an_iam_policys_own_deny_counts() -> None:
    """An open Allow behind a Deny of everything but the image is no weakness there either."""
    statements = [
        {"Sid": "Use", "Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*"},
        {"Sid": "Stop", "Effect": "Deny", "Action": "kms:GenerateRandom", "Resource": "*", **when(NOT, PCR0=PCR0)},
    ]
    assert check_policy(parse_policy(json.dumps({"Statement": statements}), PolicyKind.IDENTITY)) == []
