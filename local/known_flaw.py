"""The key policy of the best-known demo of Nitro Enclaves, and what it lets through.

Its Deny names image and PCRs under one negated operator. Keys under one operator are ANDed, so it denies only a caller
that differs in *all* of them; PCR1 (kernel and boot) is the same for every image built with one nitro-cli release. Any
image escapes the Deny, and the Allow beside it has no condition.
"""

import json

from local.measurements import Measurements


def flawed_key_policy(*, role_arn: str, admin_arn: str, image: Measurements) -> str:
    """Return that policy for a role and an image."""
    registers = {"ImageSha384": image.pcr0, "PCR0": image.pcr0, "PCR1": image.pcr1, "PCR2": image.pcr2}
    keys = {f"kms:RecipientAttestation:{name}": value.hex() for name, value in registers.items()}
    statements = [
        {"Sid": "Manage", "Effect": "Allow", "Principal": {"AWS": admin_arn}, "Action": ["kms:PutKeyPolicy"]},
        {
            "Sid": "OnlyThisImage",
            "Effect": "Deny",
            "Principal": {"AWS": role_arn},
            "Action": "kms:GenerateDataKey",
            "Condition": {"StringNotEqualsIgnoreCase": keys},
        },
        {"Sid": "Use", "Effect": "Allow", "Principal": {"AWS": role_arn}, "Action": "kms:GenerateDataKey"},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": [{**part, "Resource": "*"} for part in statements]})
