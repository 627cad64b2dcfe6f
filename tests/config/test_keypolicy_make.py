"""The made policies: they allow exactly the two images their one operation, whatever is added to them later."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.keypolicy import (
    MAX_KEY_POLICY_BYTES,
    AllowedImages,
    Outcome,
    Policies,
    PolicyError,
    PolicyKind,
    Principal,
    Request,
    attestation_context,
    evaluate,
    make_identity_policy,
    make_key_policy,
    parse_policy,
)
from config.keypolicy.conditions import RequestContext

ACCOUNT = "111122223333"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd"
ADMIN = f"arn:aws:iam::{ACCOUNT}:role/Admin"
GENERATOR, SIGNER = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("Generator", "Signer"))
GENERATOR_IMAGE, SIGNER_IMAGE, NEXT_IMAGE, OTHER_IMAGE = (bytes([number]) * 48 for number in (1, 2, 3, 4))
KERNEL, CERTIFICATE = b"\x0a" * 48, b"\x0b" * 48

GENERATOR_IMAGES = AllowedImages((GENERATOR_IMAGE.hex(),))
SIGNER_IMAGES = AllowedImages((SIGNER_IMAGE.hex(), NEXT_IMAGE.hex()), {8: (CERTIFICATE.hex(),)})
OPEN_TO_ALL = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
ALL_OF_IAM = {
    "iam": parse_policy('{"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}', PolicyKind.IDENTITY)
}


def make(*, generator: str = GENERATOR, signer: str = SIGNER, admins: tuple[str, ...] = (ADMIN,)) -> dict[str, Any]:
    """Return the key policy of the two images."""
    return make_key_policy(
        generator_role_arn=generator,
        generator_images=GENERATOR_IMAGES,
        signer_role_arn=signer,
        signer_images=SIGNER_IMAGES,
        admin_arns=admins,
    )


POLICY = make()

ACTIONS = (
    "CreateGrant",
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
)


def decide(policy: dict[str, Any], role: str, action: str, pcrs: dict[int, bytes] | None) -> Outcome:
    """Return the outcome for a role that IAM allows everything, in an enclave with these PCRs or in none."""
    context = RequestContext.of({"aws:PrincipalArn": role}, attestation_context(pcrs or {}))
    request = Request(f"kms:{action}", Principal.parse(role), KEY, context)
    return evaluate(Policies(parse_policy(json.dumps(policy), PolicyKind.KEY), ALL_OF_IAM), request).outcome


WHO: list[tuple[str, dict[int, bytes] | None]] = [
    (role, pcrs)
    for role in (GENERATOR, SIGNER, ADMIN, f"arn:aws:iam::{ACCOUNT}:root")
    for pcrs in (
        None,
        *({0: image, 1: KERNEL, 8: CERTIFICATE} for image in (GENERATOR_IMAGE, SIGNER_IMAGE, NEXT_IMAGE, OTHER_IMAGE)),
        {0: SIGNER_IMAGE, 1: KERNEL, 8: bytes(48)},
        {0: bytes(48), 1: bytes(48), 2: bytes(48)},
    )
]


@pytest.mark.parametrize("policy", [POLICY, {**POLICY, "Statement": [*POLICY["Statement"], OPEN_TO_ALL]}])
@pytest.mark.parametrize("action", ACTIONS)
def test_only_the_image_in_its_role_may_use_the_key(policy: dict[str, Any], action: str) -> None:
    """Nobody else may use it, not even with an Allow of everything to everybody added, which the Denies outlast."""
    allowed = {
        (role, pcrs[0], pcrs[8])
        for role, pcrs in WHO
        if decide(policy, role, action, pcrs) is Outcome.ALLOWED
        for pcrs in [pcrs or {0: b"none", 8: b"none"}]
    }
    expected = {
        "GenerateDataKey": {(GENERATOR, GENERATOR_IMAGE, CERTIFICATE)},
        "Decrypt": {(SIGNER, SIGNER_IMAGE, CERTIFICATE), (SIGNER, NEXT_IMAGE, CERTIFICATE)},
    }
    assert expected.get(action, set()) == allowed


def test_administrators_manage_and_nobody_else_does() -> None:
    """The administrator may change the policy; the roles of the enclaves' instances may not."""
    assert decide(POLICY, ADMIN, "PutKeyPolicy", None) is Outcome.ALLOWED
    assert decide(POLICY, SIGNER, "PutKeyPolicy", {0: SIGNER_IMAGE}) is Outcome.IMPLICIT_DENY
    assert decide(POLICY, f"arn:aws:iam::{ACCOUNT}:root", "PutKeyPolicy", None) is Outcome.IMPLICIT_DENY


def test_every_deny_has_at_most_one_negated_key() -> None:
    """Several would be ANDed: the flaw of the well-known demo."""
    for statement in parse_policy(json.dumps(POLICY), PolicyKind.KEY).statements:
        negated = [condition for condition in statement.conditions if condition.is_negated]
        assert len(negated) == (1 if statement.effect == "Deny" and statement.conditions else 0), statement.name
        assert statement.sid


@pytest.mark.parametrize(
    ("pcrs", "expected"),
    [
        ({0: GENERATOR_IMAGE}, Outcome.ALLOWED),
        ({0: OTHER_IMAGE}, Outcome.EXPLICIT_DENY),
        ({}, Outcome.EXPLICIT_DENY),
    ],
)
def test_the_iam_policy_conditions_generate_random(pcrs: dict[int, bytes], expected: Outcome) -> None:
    """GenerateRandom has no key, so IAM alone decides."""
    made = json.dumps(make_identity_policy(GENERATOR_IMAGES))
    policies = Policies(None, {"made": parse_policy(made, PolicyKind.IDENTITY), **ALL_OF_IAM})
    context = RequestContext.of(attestation_context(pcrs))
    request = Request("kms:GenerateRandom", Principal.parse(GENERATOR), "*", context)
    assert expected == evaluate(policies, request).outcome


@pytest.mark.parametrize(
    ("pcr0", "others", "text"),
    [
        ((), {}, "PCR0: no value"),
        (("00" * 48,), {}, "PCR0: zero"),
        (("AB" * 48,), {}, "PCR0: .* lower-case"),
        (("ab" * 47,), {}, "PCR0: .*96 digits"),
        (("ab" * 48,), {8: ("00" * 48,)}, "PCR8: zero"),
        (("ab" * 48,), {3: ()}, "PCR3: no value"),
    ],
)
def test_images_that_prove_nothing_are_refused(
    pcr0: tuple[str, ...], others: dict[int, tuple[str, ...]], text: str
) -> None:
    """A zero PCR would admit every enclave in debug mode."""
    with pytest.raises(PolicyError, match=text):
        AllowedImages(pcr0, others)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"admins": ()}, "at least one administrator"),
        ({"admins": ("Alice",)}, "'Alice' is not the ARN"),
        ({"admins": (SIGNER,)}, "must not administer"),
        ({"signer": GENERATOR}, "a role each"),
    ],
)
def test_principals_that_cannot_be_meant_are_refused(changes: dict[str, Any], text: str) -> None:
    """Each enclave has a role of its own, and neither administers."""
    with pytest.raises(PolicyError, match=text):
        make(**changes)


def test_a_full_policy_fits() -> None:
    """Two generations of images, two more PCRs and ten administrators stay far below the limit of KMS."""
    others = {3: ("ef" * 48,), 8: ("12" * 48,)}
    admins = [f"{ADMIN}{number}" for number in range(10)]
    policy = make_key_policy(
        generator_role_arn=GENERATOR,
        generator_images=AllowedImages(("ab" * 48, "cd" * 48), others),
        signer_role_arn=SIGNER,
        signer_images=AllowedImages(("a1" * 48, "c1" * 48), others),
        admin_arns=admins,
    )
    assert len(json.dumps(policy, indent=2)) < MAX_KEY_POLICY_BYTES / 3
