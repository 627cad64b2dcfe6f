"""Decisions, row by row against the IAM User Guide and the KMS Developer Guide."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.keypolicy import (
    Outcome,
    Policies,
    Policy,
    PolicyError,
    PolicyKind,
    Principal,
    Request,
    attestation_context,
    encryption_context_keys,
    evaluate,
    parse_policy,
)
from config.keypolicy.conditions import RequestContext

ACCOUNT = "111122223333"
OTHER = "444455556666"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/path/Worker"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/Worker/i-0123"
USER = f"arn:aws:iam::{ACCOUNT}:user/Alice"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
FOREIGN = f"arn:aws:sts::{OTHER}:assumed-role/Worker/i-0123"

ALLOWED, DENIED, MISSING = Outcome.ALLOWED, Outcome.EXPLICIT_DENY, Outcome.IMPLICIT_DENY


def statement(principal: Any = "*", action: Any = "kms:Decrypt", **elements: Any) -> dict[str, Any]:
    """Return an Allow on every resource, changed by `elements`; None takes one away."""
    made = {"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*", **elements}
    return {name: value for name, value in made.items() if value is not None}


def aws(*arns: str) -> dict[str, list[str]]:
    """Return a Principal element."""
    return {"AWS": list(arns)}


def for_iam(action: Any = "kms:Decrypt", **elements: Any) -> dict[str, Any]:
    """Return a statement of an identity-based policy."""
    return statement(None, action, **elements)


def parse(statements: list[dict[str, Any]], kind: PolicyKind) -> Policy:
    """Return a policy of these statements."""
    return parse_policy(json.dumps({"Version": "2012-10-17", "Statement": statements}), kind)


def decide(
    key: list[dict[str, Any]] | None,
    iam: list[dict[str, Any]],
    principal: str,
    action: str = "kms:Decrypt",
    context: dict[str, Any] | None = None,
) -> Outcome:
    """Return the outcome of a request on KEY, or on nothing without a key policy."""
    policies = Policies(
        parse(key, PolicyKind.KEY) if key is not None else None,
        {"iam": parse(iam, PolicyKind.IDENTITY)} if iam else {},
    )
    resource = "*" if key is None else KEY
    return evaluate(
        policies, Request(action, Principal.parse(principal), resource, RequestContext.of(context or {}))
    ).outcome


DENY = {"Effect": "Deny"}
TO_ROOT = statement(aws(ROOT), "kms:*")

# key policy, IAM policy, who asks, outcome
PRINCIPAL_ROWS: list[tuple[list[dict[str, Any]] | None, list[dict[str, Any]], str, Outcome]] = [
    ([statement(aws(ROLE))], [], SESSION, ALLOWED),
    ([statement(aws(ROLE))], [], ROLE, ALLOWED),
    ([statement(aws(SESSION))], [], SESSION, ALLOWED),
    ([statement(aws(SESSION))], [], SESSION + "9", MISSING),
    ([statement(aws(SESSION))], [], ROLE, MISSING),
    ([statement(aws(ROLE))], [], FOREIGN, MISSING),
    ([statement(aws(ROLE))], [], USER, MISSING),
    ([statement(aws(USER))], [], USER, ALLOWED),
    ([statement(aws(USER))], [], SESSION, MISSING),
    ([statement(aws(USER, ROLE))], [], SESSION, ALLOWED),
    ([statement("*")], [], SESSION, ALLOWED),
    ([statement({"AWS": "*"})], [], SESSION, ALLOWED),
    ([statement({"Service": "sns.amazonaws.com"})], [for_iam()], SESSION, MISSING),
    ([statement({"Federated": "cognito-identity.amazonaws.com"})], [], SESSION, MISSING),
    ([statement({"CanonicalUser": "79a59df900b949e55d96a1e698f"})], [], SESSION, MISSING),
    ([statement(aws("AROAEXAMPLEEXAMPLE12"))], [for_iam()], SESSION, MISSING),  # a deleted role
    # the account: IAM policies decide
    ([TO_ROOT], [], SESSION, MISSING),
    ([TO_ROOT], [for_iam()], SESSION, ALLOWED),
    ([statement(aws(ACCOUNT), "kms:*")], [for_iam()], SESSION, ALLOWED),
    ([TO_ROOT], [for_iam("kms:Encrypt")], SESSION, MISSING),
    ([TO_ROOT], [], ROOT, ALLOWED),
    ([statement(aws(ROOT), "kms:Encrypt")], [for_iam("kms:*")], SESSION, MISSING),
    ([statement(aws(f"arn:aws:iam::{OTHER}:root"))], [for_iam()], SESSION, MISSING),
    ([statement(aws(USER))], [for_iam("kms:*")], SESSION, MISSING),  # IAM alone never opens a key
    # another account needs both
    ([statement(aws(FOREIGN))], [], FOREIGN, MISSING),
    ([statement(aws(FOREIGN))], [for_iam()], FOREIGN, ALLOWED),
    ([statement(aws(OTHER))], [for_iam()], FOREIGN, ALLOWED),
    ([statement("*")], [], FOREIGN, MISSING),
    # an explicit Deny anywhere wins
    ([statement(aws(ROLE)), statement(aws(ROLE), **DENY)], [], SESSION, DENIED),
    ([statement(aws(ROLE)), statement("*", **DENY)], [for_iam()], SESSION, DENIED),
    ([statement(aws(ROLE)), statement(aws(ROOT), **DENY)], [], SESSION, DENIED),  # the account: everybody in it
    ([statement(aws(ROLE)), statement(aws(USER), **DENY)], [], SESSION, ALLOWED),
    ([statement(aws(ROLE)), statement("*", "kms:Encrypt", **DENY)], [], SESSION, ALLOWED),
    ([statement(aws(ROLE))], [for_iam(**DENY)], SESSION, DENIED),
    ([statement(aws(ROLE))], [for_iam(), for_iam("kms:De*", **DENY)], SESSION, DENIED),
    ([statement("*", **DENY)], [], SESSION, DENIED),
    # NotPrincipal spares who is listed together with the account
    (
        [
            statement(aws(ROLE)),
            statement(None, NotPrincipal=aws(SESSION, ROLE, ROOT), **DENY),
        ],
        [],
        SESSION,
        ALLOWED,
    ),
    ([statement(aws(ROLE)), statement(None, NotPrincipal=aws(ROLE), **DENY)], [], SESSION, DENIED),
    ([statement(aws(USER)), statement(None, NotPrincipal=aws(ROLE, ROOT), **DENY)], [], USER, DENIED),
    ([TO_ROOT, statement(None, NotPrincipal=aws(ROOT), **DENY)], [], ROOT, ALLOWED),
    ([statement("*"), statement(None, NotPrincipal="*", **DENY)], [], USER, ALLOWED),
    # elements that are missing: the statement has no effect
    ([statement(aws(ROLE), Resource=None)], [], SESSION, MISSING),
    ([statement(aws(ROLE), None)], [], SESSION, MISSING),
    # resources
    ([statement(aws(ROLE), Resource=KEY)], [], SESSION, ALLOWED),
    ([statement(aws(ROLE), Resource=KEY + "0")], [], SESSION, MISSING),
    ([statement(aws(ROLE), Resource=f"arn:aws:kms:*:{ACCOUNT}:key/*")], [], SESSION, ALLOWED),
    ([TO_ROOT], [for_iam(Resource=None, NotResource=KEY)], SESSION, MISSING),
    ([TO_ROOT], [for_iam(Resource=None, NotResource=KEY + "0")], SESSION, ALLOWED),
    ([TO_ROOT], [for_iam(Resource=KEY.upper().replace("ARN", "arn"))], SESSION, MISSING),
    # actions
    ([statement(aws(ROLE), "KMS:decrypt")], [], SESSION, ALLOWED),
    ([statement(aws(ROLE), "kms:D*")], [], SESSION, ALLOWED),
    ([statement(aws(ROLE), "kms:Decryp?")], [], SESSION, ALLOWED),
    ([statement(aws(ROLE), "kms:Decryp")], [], SESSION, MISSING),
    ([statement(aws(ROLE), "*")], [], SESSION, ALLOWED),
    ([statement(aws(ROLE), "s3:*")], [], SESSION, MISSING),
    ([statement(aws(ROLE), ["kms:Encrypt", "kms:Decrypt"])], [], SESSION, ALLOWED),
    ([statement(aws(ROLE), None, NotAction="kms:Encrypt")], [], SESSION, ALLOWED),
    ([statement(aws(ROLE), None, NotAction=["kms:E*", "kms:D*"])], [], SESSION, MISSING),
    # no key: IAM alone
    (None, [for_iam()], SESSION, ALLOWED),
    (None, [], SESSION, MISSING),
    (None, [for_iam(Resource=KEY)], SESSION, MISSING),
    (None, [for_iam(), for_iam(**DENY)], SESSION, DENIED),
]


@pytest.mark.parametrize(("key", "iam", "principal", "expected"), PRINCIPAL_ROWS)
def test_principals_actions_and_resources_decide_as_documented(
    key: list[dict[str, Any]] | None, iam: list[dict[str, Any]], principal: str, expected: Outcome
) -> None:
    """Key policy and IAM policy together give the documented outcome."""
    assert expected == decide(key, iam, principal)


IMAGE, OTHER_IMAGE, KERNEL = b"\x01" * 48, b"\x02" * 48, b"\x0a" * 48
OURS = attestation_context({0: IMAGE, 1: KERNEL, 2: b"\x03" * 48})
THEIRS = attestation_context({0: OTHER_IMAGE, 1: KERNEL, 2: b"\x04" * 48})
PCR = "kms:RecipientAttestation:PCR"


def when(operator: str, **keys: Any) -> dict[str, Any]:
    """Return a Condition element over PCRs."""
    return {"Condition": {operator: {f"{PCR}{name.removeprefix('pcr')}": value for name, value in keys.items()}}}


CONTEXT_ROWS: list[tuple[list[dict[str, Any]], dict[str, Any], Outcome]] = [
    ([statement(**when("StringEqualsIgnoreCase", pcr0=IMAGE.hex().upper()))], OURS, ALLOWED),
    ([statement(**when("StringEquals", pcr0=IMAGE.hex()))], OURS, ALLOWED),
    ([statement(**when("StringEqualsIgnoreCase", pcr0=IMAGE.hex()))], THEIRS, MISSING),
    ([statement(**when("StringEqualsIgnoreCase", pcr0=IMAGE.hex()))], {}, MISSING),
    ([statement(**when("StringEqualsIgnoreCase", pcr0=IMAGE.hex(), pcr1="00"))], OURS, MISSING),  # keys are ANDed
    ([statement(**when("StringEqualsIgnoreCase", pcr0=IMAGE.hex(), pcr1=KERNEL.hex()))], OURS, ALLOWED),
    ([statement(**when("StringNotEqualsIgnoreCase", pcr0=OTHER_IMAGE.hex()))], {}, ALLOWED),  # the bad one
    ([statement(), statement(**DENY, **when("StringNotEqualsIgnoreCase", pcr0=IMAGE.hex()))], OURS, ALLOWED),
    ([statement(), statement(**DENY, **when("StringNotEqualsIgnoreCase", pcr0=IMAGE.hex()))], THEIRS, DENIED),
    ([statement(), statement(**DENY, **when("StringNotEqualsIgnoreCase", pcr0=IMAGE.hex()))], {}, DENIED),
    (
        [statement(), statement(**DENY, **when("StringNotEqualsIgnoreCase", pcr0=[IMAGE.hex(), OTHER_IMAGE.hex()]))],
        THEIRS,
        ALLOWED,
    ),
    ([statement(Condition={"Null": {"kms:RecipientAttestation:ImageSha384": "false"}})], OURS, ALLOWED),
    ([statement(Condition={"Null": {"kms:RecipientAttestation:ImageSha384": False}})], {}, MISSING),
    (
        [statement(Condition={"StringEquals": {"kms:recipientattestation:imagesha384": IMAGE.hex()}})],
        OURS,
        ALLOWED,
    ),
    (  # two operators are ANDed
        [
            statement(
                Condition={
                    "StringEquals": {f"{PCR}0": IMAGE.hex()},
                    "StringLike": {"kms:EncryptionContext:userid": "u*"},
                }
            )
        ],
        {**OURS, **encryption_context_keys({"userid": "v1"})},
        MISSING,
    ),
    (
        [statement(Condition={"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["userid", "x"]}})],
        encryption_context_keys({"userid": "u1"}),
        ALLOWED,
    ),
    (
        [statement(Condition={"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "USERID"}})],
        encryption_context_keys({"userid": "u1"}),
        MISSING,
    ),
    ([statement(Condition={"NumericLessThan": {"aws:EpochTime": 5}})], {"aws:EpochTime": "4"}, ALLOWED),
    ([statement(Condition={})], {}, ALLOWED),
]


@pytest.mark.parametrize(("key", "context", "expected"), CONTEXT_ROWS)
def test_conditions_decide_as_documented(key: list[dict[str, Any]], context: dict[str, Any], expected: Outcome) -> None:
    """Operators and keys are ANDed; without a document the attestation keys are absent."""
    assert expected == decide(key, [], SESSION, context=context)


def test_another_image_passes_the_well_known_demos_policy() -> None:
    """Its Deny has four negated keys under one operator: one that fits (PCR1, the kernel) switches it off."""
    policy = [
        statement(aws(ROLE)),
        statement(
            aws(ROLE),
            **DENY,
            **when("StringNotEqualsIgnoreCase", pcr0=IMAGE.hex(), pcr1=KERNEL.hex(), pcr2=(b"\x03" * 48).hex()),
        ),
    ]
    assert decide(policy, [], SESSION, context=OURS) is ALLOWED
    assert decide(policy, [], SESSION, context={}) is DENIED, "so the plain AWS CLI cannot show the flaw"
    assert decide(policy, [], SESSION, context=THEIRS) is ALLOWED, "another image with the same kernel"


def test_a_decision_names_the_statements_that_made_it() -> None:
    """All statements that decided are there, with the policy that each is in."""
    policies = Policies(
        parse([{**TO_ROOT, "Sid": "ToIam"}], PolicyKind.KEY),
        {"Base": parse([for_iam(Sid="Use")], PolicyKind.IDENTITY)},
    )
    decision = evaluate(policies, Request("kms:Decrypt", Principal.parse(SESSION), KEY))
    assert decision.is_allowed
    assert [(found.policy, found.statement.name) for found in decision.statements] == [
        ("key policy", "ToIam"),
        ("Base", "Use"),
    ]


@pytest.mark.parametrize(
    ("key", "iam", "clause"),
    [
        ([statement("*", **DENY)], [], "with an explicit deny in a resource-based policy"),
        ([statement("*")], [for_iam(**DENY)], "with an explicit deny in an identity-based policy"),
        ([statement(aws(USER))], [], "because no resource-based policy allows the kms:Decrypt action"),
        ([TO_ROOT], [], "because no identity-based policy allows the kms:Decrypt action"),
        (None, [], "because no identity-based policy allows the kms:Decrypt action"),
    ],
)
def test_a_denial_explains_itself_in_the_words_of_kms(
    key: list[dict[str, Any]] | None, iam: list[dict[str, Any]], clause: str
) -> None:
    """The clause is the one that ends real AccessDeniedException texts."""
    policies = Policies(
        parse(key, PolicyKind.KEY) if key else None, {"iam": parse(iam, PolicyKind.IDENTITY)} if iam else {}
    )
    decision = evaluate(policies, Request("kms:Decrypt", Principal.parse(SESSION), KEY if key else "*"))
    assert clause == decision.explain("kms:Decrypt")


@pytest.mark.parametrize(
    "arn",
    ["", "*", "arn:aws:iam::1:role/x", "arn:aws:iam::111122223333:group/x", KEY, f"arn:aws:sts::{ACCOUNT}:role"],
)
def test_what_cannot_ask_is_no_principal(arn: str) -> None:
    """Only roles, sessions, users, federated users and an account's root ask."""
    with pytest.raises(PolicyError, match="not the ARN of"):
        Principal.parse(arn)


@pytest.mark.parametrize(
    ("arn", "principal_arn"),
    [(SESSION, f"arn:aws:iam::{ACCOUNT}:role/Worker"), (ROLE, ROLE), (USER, USER), (ROOT, ROOT)],
)
def test_a_session_has_its_roles_principal_arn(arn: str, principal_arn: str) -> None:
    """`aws:PrincipalArn` of a session is the role's ARN."""
    assert principal_arn == Principal.parse(arn).principal_arn


def test_attestation_keys_are_lower_case_hex_and_pcr0_has_two_names() -> None:
    """The keys are those of the Service Authorization Reference."""
    assert attestation_context({0: b"\xab" * 48, 31: b"\xcd" * 48}) == {
        "kms:RecipientAttestation:ImageSha384": "ab" * 48,
        "kms:RecipientAttestation:PCR0": "ab" * 48,
        "kms:RecipientAttestation:PCR31": "cd" * 48,
    }
    assert attestation_context({}) == {}
    assert encryption_context_keys({}) == {}
