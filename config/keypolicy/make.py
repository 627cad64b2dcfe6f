"""Makes the key policy and the IAM policy of this service (design in docs/security.md).

Positive conditions allow; Denies behind them hold against whatever anybody adds later: a grant, an IAM policy, another
statement. Each Deny has a single negated key, because several keys under one operator are ANDed: such a Deny would
spare every image that shares any of them, and PCR1 is shared by all images of one nitro-cli release.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from config.keypolicy.attestation import pcr_key
from config.keypolicy.errors import PolicyError
from config.keypolicy.principals import Principal

ADMIN_ACTIONS: Final = (
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListAliases",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
)
"""What administrators need: no use of the key, no grant, and no replica, which would have a policy of its own."""

FORBIDDEN_ACTIONS: Final = (
    "kms:CreateGrant",
    "kms:Encrypt",
    "kms:GenerateDataKeyPair*",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncrypt*",
)
"""Nobody needs these, and each is a way around the conditions: KMS takes no attestation document with Encrypt and
ReEncrypt, so they would let the parent make data keys that the signer accepts."""

_PCR_HEX: Final = re.compile(r"[0-9a-f]{96}")
_POLICY_VERSION: Final = "2012-10-17"


@dataclass(frozen=True, slots=True)
class AllowedImages:
    """The images that may do one thing: PCR0 of each, and PCRs that every one of them must have besides.

    Raises:
        PolicyError: no PCR0, a value that is not a SHA-384 in hexadecimal, or one that is zero (debug mode).
    """

    pcr0: tuple[str, ...]
    """One value, or two while an upgrade lasts; lower-case hexadecimal."""

    other_pcrs: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """For example 8, the signing certificate, or 3, the role of the instance."""

    def __post_init__(self) -> None:
        for index, values in self.conditions():
            if not values:
                raise PolicyError(f"PCR{index}: no value")
            for value in values:
                if _PCR_HEX.fullmatch(value) is None:
                    raise PolicyError(f"PCR{index}: {value!r} is not a SHA-384 in lower-case hexadecimal (96 digits)")
                if not value.strip("0"):
                    raise PolicyError(f"PCR{index}: zero is the value of every enclave in debug mode")

    def conditions(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return each PCR with its allowed values."""
        return [(0, self.pcr0), *sorted(self.other_pcrs.items())]


def make_key_policy(
    *,
    generator_role_arn: str,
    generator_images: AllowedImages,
    signer_role_arn: str,
    signer_images: AllowedImages,
    admin_arns: Iterable[str],
) -> dict[str, Any]:
    """Return the key policy: the generator's image makes data keys, the signer's opens them, and that is all.

    Raises:
        PolicyError: a principal that is none, one role or image for both, or no administrator.
    """
    admins = sorted(admin_arns)
    if not admins:
        raise PolicyError("at least one administrator: without PutKeyPolicy the key could never be managed again")
    for arn in (generator_role_arn, signer_role_arn):
        if not Principal.parse(arn).resource.startswith("role/"):
            raise PolicyError(f"{arn} is not the ARN of a role (arn:aws:iam::ACCOUNT:role/NAME)")
    for arn in admins:
        Principal.parse(arn)
    if generator_role_arn == signer_role_arn:
        raise PolicyError("generator and signer need a role each")
    if roles := {generator_role_arn, signer_role_arn}.intersection(admins):
        raise PolicyError(f"{roles.pop()} is a role of an enclave's instance and must not administer the key")
    if set(generator_images.pcr0) & set(signer_images.pcr0):
        raise PolicyError("generator and signer have a PCR0 in common: no image may do both")
    return {
        "Version": _POLICY_VERSION,
        "Id": "nitro-signer",
        "Statement": [
            _allow_images("GeneratorMakesDataKeys", "kms:GenerateDataKey", generator_images, generator_role_arn),
            _allow_images("SignerOpensDataKeys", "kms:Decrypt", signer_images, signer_role_arn),
            {
                "Sid": "AdministratorsManage",
                "Effect": "Allow",
                "Principal": {"AWS": admins},
                "Action": list(ADMIN_ACTIONS),
                "Resource": "*",
            },
            *_deny_others("GenerateDataKey", generator_images, generator_role_arn),
            *_deny_others("Decrypt", signer_images, signer_role_arn),
            {
                "Sid": "DenyWaysAround",
                "Effect": "Deny",
                "Principal": "*",
                "Action": list(FORBIDDEN_ACTIONS),
                "Resource": "*",
            },
        ],
    }


def make_identity_policy(images: AllowedImages) -> dict[str, Any]:
    """Return the IAM policy of the generator's role: GenerateRandom has no key, so only IAM can condition it."""
    allow = _allow_images("GeneratorTakesRandomness", "kms:GenerateRandom", images, principal_arn=None)
    return {
        "Version": _POLICY_VERSION,
        "Statement": [
            allow,
            *(
                _deny_other_image("GenerateRandom", index, values, principal=None)
                for index, values in images.conditions()
            ),
        ],
    }


def _allow_images(sid: str, action: str, images: AllowedImages, principal_arn: str | None) -> dict[str, Any]:
    return {
        "Sid": sid,
        "Effect": "Allow",
        **({"Principal": {"AWS": principal_arn}} if principal_arn else {}),
        "Action": action,
        "Resource": "*",
        # ANDed, which is the safe direction here.
        "Condition": {
            "StringEqualsIgnoreCase": {pcr_key(index): list(values) for index, values in images.conditions()}
        },
    }


def _deny_others(operation: str, images: AllowedImages, role_arn: str) -> list[dict[str, Any]]:
    by_image = [_deny_other_image(operation, index, values, principal="*") for index, values in images.conditions()]
    by_role = {
        "Sid": f"Deny{operation}ToOtherRoles",
        "Effect": "Deny",
        "Principal": "*",
        "Action": f"kms:{operation}",
        "Resource": "*",
        "Condition": {"ArnNotEquals": {"aws:PrincipalArn": role_arn}},
    }
    return [*by_image, by_role]


def _deny_other_image(operation: str, index: int, values: tuple[str, ...], *, principal: str | None) -> dict[str, Any]:
    return {
        "Sid": f"Deny{operation}WithoutPCR{index}",
        "Effect": "Deny",
        **({"Principal": principal} if principal else {}),
        "Action": f"kms:{operation}",
        "Resource": "*",
        "Condition": {"StringNotEqualsIgnoreCase": {pcr_key(index): list(values)}},
    }
