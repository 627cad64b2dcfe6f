"""Policies as values: the JSON of IAM and KMS, parsed strictly.

Source: IAM User Guide, "Grammar of the IAM JSON policy language".

An error names the statement (by its Sid, or by its number from 1) and the element.
"""

import json
from dataclasses import dataclass
from enum import Enum, StrEnum, unique
from typing import Any, Final, TypeGuard

from config.keypolicy.conditions import Condition, parse_condition
from config.keypolicy.errors import PolicyError
from config.keypolicy.matching import matches_action, matches_wildcard
from config.keypolicy.principals import EVERYONE, PrincipalElement, check_aws_principal

MAX_KEY_POLICY_BYTES: Final = 32 * 1024
"""KMS Developer Guide, Resource quotas."""

_VERSIONS: Final = ("2012-10-17", "2008-10-17")
_DEFAULT_VERSION: Final = "2008-10-17"
_POLICY_ELEMENTS: Final = frozenset({"Version", "Id", "Statement"})
_STATEMENT_ELEMENTS: Final = frozenset(
    {
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    }
)
_PRINCIPAL_KINDS: Final = frozenset({"AWS", "Service", "Federated", "CanonicalUser"})


@unique
class PolicyKind(Enum):
    """What a policy is attached to."""

    KEY = "key policy"
    IDENTITY = "identity-based policy"


@unique
class Effect(StrEnum):
    """What a statement does when it matches."""

    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True)
class Patterns:
    """`Action`, `Resource` or their `Not...` form."""

    values: tuple[str, ...]
    is_negated: bool = False


NO_PATTERNS: Final = Patterns(())
"""An element that is missing where KMS takes that: the statement has no effect."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `principal` is None in an identity-based policy."""

    number: int
    """Its place in the policy, from 1."""

    sid: str | None
    effect: Effect
    principal: PrincipalElement | None
    actions: Patterns
    resources: Patterns
    conditions: tuple[Condition, ...]

    @property
    def name(self) -> str:
        """How to tell a person which statement is meant."""
        return self.sid or f"statement {self.number}"

    def matches_action(self, action: str) -> bool:
        """Tell whether it speaks of an action (`kms:Decrypt`)."""
        patterns = self.actions
        return any(matches_action(pattern, action) for pattern in patterns.values) != patterns.is_negated

    def matches_resource(self, resource: str) -> bool:
        """Tell whether it speaks of a resource: an ARN, or `*` for an action that has none."""
        patterns = self.resources
        return any(matches_wildcard(pattern, resource) for pattern in patterns.values) != patterns.is_negated


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that parsed."""

    kind: PolicyKind
    version: str
    id: str | None
    statements: tuple[Statement, ...]


def parse_policy(text: str, kind: PolicyKind) -> Policy:
    """Parse the JSON text of a policy.

    A key policy's statement without `Resource` or `Action` parses, as PutKeyPolicy takes it; it matches nothing.

    Raises:
        PolicyError: names the statement and the element.
    """
    if kind is PolicyKind.KEY and len(text.encode()) > MAX_KEY_POLICY_BYTES:
        raise PolicyError(f"{len(text.encode())} bytes; a key policy has at most {MAX_KEY_POLICY_BYTES}")
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise PolicyError("not JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise PolicyError(f"not JSON: {error}") from error
    if not _is_object(document):
        raise PolicyError("a policy is a JSON object")
    _check_elements(document, _POLICY_ELEMENTS)
    version = document.get("Version", _DEFAULT_VERSION)
    if version not in _VERSIONS:
        raise PolicyError(f"Version: one of {', '.join(_VERSIONS)}")
    statements = document.get("Statement")
    if _is_object(statements):
        statements = [statements]
    if not _is_array(statements) or not statements:
        raise PolicyError("Statement: one statement or a list of them")
    parsed = tuple(_parse_statement(number, value, kind) for number, value in enumerate(statements, start=1))
    sids = [statement.sid for statement in parsed if statement.sid]
    for sid in sids:
        if kind is PolicyKind.IDENTITY and sids.count(sid) > 1:
            raise PolicyError(f"Sid: {sid!r} is not unique in the policy")
    return Policy(kind, str(version), _optional_text(document, "Id"), parsed)


def _parse_statement(number: int, value: object, kind: PolicyKind) -> Statement:
    place = f"statement {number}"
    try:
        if not _is_object(value):
            raise PolicyError("a statement is a JSON object")  # noqa: TRY301 - so that it gets its place below
        sid = _optional_text(value, "Sid")
        place = f"{place} ({sid})" if sid else place
        _check_elements(value, _STATEMENT_ELEMENTS)
        effect = _parse_effect(value.get("Effect"))
        may_miss = kind is PolicyKind.KEY
        return Statement(
            number=number,
            sid=sid,
            effect=effect,
            principal=_parse_principal(value, kind, effect),
            actions=_parse_actions(value, may_miss=may_miss),
            resources=_parse_resources(value, may_miss=may_miss),
            conditions=_parse_conditions(value.get("Condition", {})),
        )
    except PolicyError as error:
        raise PolicyError(f"{place}: {error}") from error


def _parse_effect(value: object) -> Effect:
    if not isinstance(value, str) or value not in set(Effect):
        raise PolicyError("Effect: Allow or Deny")
    return Effect(value)


def _parse_principal(statement: dict[str, Any], kind: PolicyKind, effect: Effect) -> PrincipalElement | None:
    name = _one_of(statement, "Principal", "NotPrincipal")
    if kind is PolicyKind.IDENTITY:
        if name is not None:
            raise PolicyError(f"{name}: not in an identity-based policy")
        return None
    if name is None:
        raise PolicyError("Principal: element is missing")
    is_negated = name == "NotPrincipal"
    if is_negated and effect is Effect.ALLOW:
        raise PolicyError("NotPrincipal: not with Allow")
    return PrincipalElement(_principal_entries(name, statement[name]), is_negated)


def _principal_entries(name: str, value: object) -> tuple[tuple[str, str], ...]:
    if value == EVERYONE:
        return (("AWS", EVERYONE),)
    if not _is_object(value) or not value:
        raise PolicyError(f'{name}: "*" or an object such as {{"AWS": ARN}}')
    entries: list[tuple[str, str]] = []
    for kind, values in value.items():
        if kind not in _PRINCIPAL_KINDS:
            raise PolicyError(f"{name}.{kind}: one of {', '.join(sorted(_PRINCIPAL_KINDS))}")
        texts = _texts(f"{name}.{kind}", values)
        if kind == "AWS":
            _check_aws_principals(name, texts)
        entries += [(kind, text) for text in texts]
    return tuple(entries)


def _check_aws_principals(name: str, values: tuple[str, ...]) -> None:
    for value in values:
        try:
            check_aws_principal(value)
        except PolicyError as error:
            raise PolicyError(f"{name}.AWS: {error}") from error


def _parse_actions(statement: dict[str, Any], *, may_miss: bool) -> Patterns:
    patterns = _parse_patterns(statement, "Action", may_miss=may_miss)
    for value in patterns.values:
        service, colon, action = value.partition(":")
        if value != EVERYONE and not (colon and service and action):
            raise PolicyError(f"Action: {value!r} is neither * nor SERVICE:ACTION")
    return patterns


def _parse_resources(statement: dict[str, Any], *, may_miss: bool) -> Patterns:
    patterns = _parse_patterns(statement, "Resource", may_miss=may_miss)
    for value in patterns.values:
        if "${" in value:
            raise PolicyError("Resource: policy variables are not supported")
        if value != EVERYONE and not value.startswith("arn:"):
            raise PolicyError(f"Resource: {value!r} is neither * nor an ARN")
    return patterns


def _parse_patterns(statement: dict[str, Any], element: str, *, may_miss: bool) -> Patterns:
    name = _one_of(statement, element, f"Not{element}")
    if name is None:
        if may_miss:
            return NO_PATTERNS
        raise PolicyError(f"{element}: element is missing")
    return Patterns(_texts(name, statement[name]), is_negated=name != element)


def _parse_conditions(value: object) -> tuple[Condition, ...]:
    if not _is_object(value):
        raise PolicyError("Condition: an object of operators")
    conditions: list[Condition] = []
    for operator, keys in value.items():
        if not _is_object(keys):
            raise PolicyError(f"Condition.{operator}: an object of condition keys")
        for key, values in keys.items():
            texts = _condition_values(f"Condition.{operator}.{key}", values)
            try:
                conditions.append(parse_condition(operator, key, texts))
            except PolicyError as error:
                raise PolicyError(f"Condition.{error}") from error
    return tuple(conditions)


def _condition_values(place: str, value: object) -> tuple[str, ...]:
    """Numbers and booleans may stand without quotes."""
    values: list[Any] = value if _is_array(value) else [value]
    texts: list[str] = []
    for one in values:
        if isinstance(one, bool):
            texts.append("true" if one else "false")
        elif isinstance(one, (str, int, float)):
            texts.append(str(one))
        else:
            raise PolicyError(f"{place}: a text, number or boolean, or a list of them")
    return tuple(texts)


def _texts(place: str, value: object) -> tuple[str, ...]:
    values: list[Any] = value if _is_array(value) else [value]
    if not values or not all(isinstance(text, str) and text for text in values):
        raise PolicyError(f"{place}: a text or a list of texts")
    return tuple(values)


def _one_of(statement: dict[str, Any], name: str, negated: str) -> str | None:
    if name in statement and negated in statement:
        raise PolicyError(f"{name} and {negated} exclude each other")
    return name if name in statement else negated if negated in statement else None


def _optional_text(value: dict[str, Any], name: str) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise PolicyError(f"{name}: a text")
    return text


def _check_elements(value: dict[str, Any], known: frozenset[str]) -> None:
    for name in value:
        if name not in known:
            raise PolicyError(f"{name}: unknown element")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise PolicyError(f"{name}: stands twice in one object")
        found[name] = value
    return found


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_array(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
