"""Finds the weaknesses of a policy that a person wrote: what lets anything but the measured image use the key.

An Allow is judged together with the Denies beside it: an open Allow behind a Deny that holds is no weakness.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from config.keypolicy.attestation import IMAGE_KEY, PCR_KEY_PREFIX
from config.keypolicy.conditions import Condition, Qualifier
from config.keypolicy.model import Effect, Policy, PolicyKind, Statement
from config.keypolicy.principals import EVERYONE, is_account

_ATTESTATION_PREFIX: Final = "kms:recipientattestation:"
_IMAGE_KEYS: Final = frozenset({IMAGE_KEY.lower(), f"{PCR_KEY_PREFIX}0".lower(), f"{PCR_KEY_PREFIX}8".lower()})
"""What names the whole image: PCR0, or PCR8 for its signer. Kernel, application or role alone do not."""

_KNOWN_KEY: Final = re.compile(r"kms:recipientattestation:(imagesha384|(nitrotpm)?pcr([0-9]|[12][0-9]|3[01]))")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{96}")
_ATTESTABLE: Final = ("kms:Decrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
_RANDOM: Final = "kms:GenerateRandom"
_NEVER_ATTESTED: Final = (
    "kms:Encrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:GenerateDataKeyPairWithoutPlaintext",
)
_GRANT: Final = "kms:CreateGrant"
_ADMINISTER: Final = "kms:PutKeyPolicy"
_CASE_SENSITIVE: Final = frozenset({"StringEquals", "StringNotEquals", "StringLike", "StringNotLike"})
_STRING_EQUALITY: Final = frozenset({"StringEquals", "StringEqualsIgnoreCase", "StringLike"})


@unique
class Weakness(StrEnum):
    """The kinds of weakness; the values are stable names for programs."""

    NEGATED_KEYS_ANDED = "negated-keys-anded"
    UNATTESTED_USE = "unattested-use"
    ADMIN_WITH_USE = "admin-with-use"
    ACCOUNT_DECIDES = "account-decides"
    OPEN_TO_EVERYONE = "open-to-everyone"
    ALLOW_WITH_NEGATION = "allow-with-negation"
    PART_OF_IMAGE = "part-of-image"
    ABSENT_PASSES = "absent-passes"
    MINTS_CIPHERTEXT = "mints-ciphertext"
    GRANTS = "grants"
    ZERO_PCR = "zero-pcr"
    WRONG_CASE = "wrong-case"
    BAD_VALUE = "bad-value"
    UNKNOWN_KEY = "unknown-key"
    NO_EFFECT = "no-effect"
    RANDOM_IN_KEY_POLICY = "random-in-key-policy"
    NO_SID = "no-sid"


@dataclass(frozen=True, slots=True)
class Finding:
    """One weakness of one statement."""

    weakness: Weakness
    statement: str
    """Its Sid, or its number."""

    text: str
    fix: str


def check_policy(policy: Policy) -> list[Finding]:
    """Return the weaknesses, in the order of the statements; none for a good policy."""
    findings: list[Finding] = []
    for statement in policy.statements:
        found = [
            *_check_form(policy, statement),
            *_check_conditions(statement),
            *(_check_deny(policy, statement) if statement.effect is Effect.DENY else _check_allow(policy, statement)),
        ]
        findings += [Finding(weakness, statement.name, text, fix) for weakness, text, fix in found]
    return findings


_Found = Iterator[tuple[Weakness, str, str]]


def _check_form(policy: Policy, statement: Statement) -> _Found:
    if not statement.sid:
        yield Weakness.NO_SID, "has no Sid, so logs and reviews cannot name it", "give it a Sid"
    for element, patterns in (("Action", statement.actions), ("Resource", statement.resources)):
        if not patterns.values:
            yield Weakness.NO_EFFECT, f"has no {element}: KMS takes it, and it does nothing", f'add "{element}"'
    if policy.kind is PolicyKind.KEY and any(value.lower() == _RANDOM.lower() for value in statement.actions.values):
        yield (
            Weakness.RANDOM_IN_KEY_POLICY,
            "names GenerateRandom, which has no key: here it does nothing",
            "condition GenerateRandom in the IAM policy of the role",
        )


def _check_conditions(statement: Statement) -> _Found:
    for condition in statement.conditions:
        if not _is_attestation(condition):
            continue
        if _KNOWN_KEY.fullmatch(condition.key.lower()) is None:
            yield (
                Weakness.UNKNOWN_KEY,
                f"{condition.key} is no condition key of KMS, so it is always absent",
                f"use {IMAGE_KEY} or {PCR_KEY_PREFIX}0 to {PCR_KEY_PREFIX}31",
            )
        elif condition.base_name != "Null":
            yield from _check_values(condition)


def _check_values(condition: Condition) -> _Found:
    for value in condition.values:
        if _DIGEST.fullmatch(value) is None:
            yield (
                Weakness.BAD_VALUE,
                f"{condition.key}: {value!r} is no SHA-384 in hexadecimal",
                "give the 96 digits that nitro-cli build-enclave prints, without wildcards",
            )
        elif not value.strip("0"):
            yield (
                Weakness.ZERO_PCR,
                f"{condition.key} is zero, which every enclave in debug mode has",
                "take the zero value out",
            )
        elif value != value.lower() and condition.base_name in _CASE_SENSITIVE:
            yield (
                Weakness.WRONG_CASE,
                f"{condition.key} has upper-case digits under {condition.operator}; KMS gives lower case",
                "use StringEqualsIgnoreCase or StringNotEqualsIgnoreCase",
            )


def _check_deny(policy: Policy, statement: Statement) -> _Found:
    negated = [condition for condition in statement.conditions if _is_attestation(condition) and condition.is_negated]
    exposed = [action for action in _use_of(policy) if statement.matches_action(action)]
    if len(negated) > 1 and any(not _is_denied(policy, statement, action) for action in exposed):
        yield (
            Weakness.NEGATED_KEYS_ANDED,
            f"denies only when all {len(negated)} negated keys differ: an image that shares one, as PCR1, escapes it",
            "write one Deny statement for each key",
        )


def _check_allow(policy: Policy, statement: Statement) -> _Found:
    if _is_image_bound(statement):
        return  # needs the image, and never matches what takes no document
    allowed = [action for action in _use_of(policy) if _is_open(policy, statement, action)]
    if allowed:
        yield _judge_use(statement, allowed)
    if minting := [action for action in _NEVER_ATTESTED if _is_open(policy, statement, action)]:
        yield (
            Weakness.MINTS_CIPHERTEXT,
            f"allows {_list(minting)}, which are never attested: whoever calls them makes what the enclave accepts",
            "take them out, and add a flat Deny",
        )
    if _is_open(policy, statement, _GRANT):
        yield (
            Weakness.GRANTS,
            "allows CreateGrant: a grant gives use of the key past every condition",
            "take kms:CreateGrant out, and add a flat Deny",
        )


def _judge_use(statement: Statement, allowed: list[str]) -> tuple[Weakness, str, str]:
    attestation = [condition for condition in statement.conditions if _is_attestation(condition)]
    what = _list(allowed)
    fix = f"condition it: StringEqualsIgnoreCase on {PCR_KEY_PREFIX}0"
    if any(condition.is_negated for condition in attestation):
        return Weakness.ALLOW_WITH_NEGATION, f"allows {what} where a key is absent: callers without attestation", fix
    if any(condition.is_if_exists or condition.qualifier is Qualifier.FOR_ALL_VALUES for condition in attestation):
        return Weakness.ABSENT_PASSES, f"allows {what} to callers without attestation: an absent key passes", fix
    if attestation:
        text = f"allows {what} to whatever shares {_list([condition.key for condition in attestation])}"
        return Weakness.PART_OF_IMAGE, text, fix
    return _judge_principal(statement, what, fix)


def _judge_principal(statement: Statement, what: str, fix: str) -> tuple[Weakness, str, str]:
    principals = statement.principal.values if statement.principal else frozenset[str]()
    if EVERYONE in principals:
        return Weakness.OPEN_TO_EVERYONE, f"allows {what} to everybody, without attestation", "name the role; " + fix
    if any(is_account(value) for value in principals):
        text = f"lets any IAM policy of the account allow {what}, past every condition"
        return Weakness.ACCOUNT_DECIDES, text, "list what administrators need, without use of the key"
    if statement.matches_action(_ADMINISTER):
        return Weakness.ADMIN_WITH_USE, f"gives an administrator {what}", "take the use of the key out"
    return Weakness.UNATTESTED_USE, f"allows {what} without attestation", fix


def _is_open(policy: Policy, statement: Statement, action: str) -> bool:
    return statement.matches_action(action) and not _is_denied(policy, statement, action)


def _is_denied(policy: Policy, statement: Statement, action: str) -> bool:
    """Tell whether a Deny keeps everything but an image from an action, for all that `statement` speaks of."""
    return any(
        deny is not statement
        and deny.effect is Effect.DENY
        and deny.matches_action(action)
        and EVERYONE in deny.resources.values
        and not deny.resources.is_negated
        and _covers(deny, statement)
        and _spares_an_image_at_most(deny)
        for deny in policy.statements
    )


def _spares_an_image_at_most(deny: Statement) -> bool:
    if not deny.conditions:
        return True
    [condition, *others] = deny.conditions
    return (
        not others
        and condition.key.lower() in _IMAGE_KEYS
        and condition.is_negated
        and condition.qualifier is Qualifier.NONE
    )


def _covers(deny: Statement, statement: Statement) -> bool:
    if deny.principal is None or statement.principal is None:
        return True  # an identity-based policy speaks of its own principal
    if deny.principal.is_negated:
        return False
    return EVERYONE in deny.principal.values or statement.principal.values <= deny.principal.values


def _is_image_bound(statement: Statement) -> bool:
    return any(
        condition.key.lower() in _IMAGE_KEYS
        and condition.base_name in _STRING_EQUALITY
        and not condition.is_if_exists
        and condition.qualifier is not Qualifier.FOR_ALL_VALUES
        for condition in statement.conditions
    )


def _is_attestation(condition: Condition) -> bool:
    return condition.key.lower().startswith(_ATTESTATION_PREFIX)


def _use_of(policy: Policy) -> tuple[str, ...]:
    return _ATTESTABLE if policy.kind is PolicyKind.KEY else (*_ATTESTABLE, _RANDOM)


def _list(names: list[str]) -> str:
    return ", ".join(name.removeprefix("kms:") for name in names)
