"""An attesting KMS for a laptop: real policies, real attestation checks, real envelopes, under local keys.

What no public stand-in does: it verifies the attestation document of a call under a root given at start, evaluates key
policy and IAM policies with `config.keypolicy`, binds the encryption context, enforces the pinned key and answers in
KMS's own CMS form. `AttestingKms` runs it inside a process, `python -m local.kms` as one of its own; `provision` makes
key, roles and policies of the local stack.
"""

from local.kms.faults import KmsFaults
from local.kms.provision import (
    Credentials,
    KmsAccount,
    RoleAccess,
    ensure_key,
    make_local_key_policy,
    provision_roles,
    register_sessions,
)
from local.kms.server import AttestingKms, KmsSettings

__all__ = [
    "AttestingKms",
    "Credentials",
    "KmsAccount",
    "KmsFaults",
    "KmsSettings",
    "RoleAccess",
    "ensure_key",
    "make_local_key_policy",
    "provision_roles",
    "register_sessions",
]
