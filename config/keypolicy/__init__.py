"""KMS key policies and the IAM policies beside them: parse, evaluate, make, check.

Pure: no I/O, no clock. The stand-in KMS and `nitro-signer policy simulate` use the same evaluator, so that they cannot
differ. Not modelled: service and resource control policies, permissions boundaries, session policies, grants, policy
variables (refused when met).
"""

from config.keypolicy.attestation import attestation_context, encryption_context_keys
from config.keypolicy.errors import PolicyError
from config.keypolicy.evaluate import Decision, Outcome, Policies, Request, evaluate
from config.keypolicy.make import AllowedImages, make_identity_policy, make_key_policy
from config.keypolicy.model import MAX_KEY_POLICY_BYTES, Policy, PolicyKind, Statement, parse_policy
from config.keypolicy.principals import Principal
from config.keypolicy.retire import retire_image

__all__ = [
    "MAX_KEY_POLICY_BYTES",
    "AllowedImages",
    "Decision",
    "Outcome",
    "Policies",
    "Policy",
    "PolicyError",
    "PolicyKind",
    "Principal",
    "Request",
    "Statement",
    "attestation_context",
    "encryption_context_keys",
    "evaluate",
    "make_identity_policy",
    "make_key_policy",
    "parse_policy",
    "retire_image",
]
