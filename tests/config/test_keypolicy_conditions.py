"""Conditions, row by row against the IAM User Guide's pages on condition operators and set operators."""

from __future__ import annotations

from typing import Any

import pytest

from config.keypolicy import PolicyError
from config.keypolicy.conditions import Qualifier, RequestContext, parse_condition

ARN = "arn:aws:iam::111122223333:role/app/Worker"

# operator, policy values, request values (None: the key is absent), whether the condition holds
ROWS: list[tuple[str, str | list[str], list[str] | None, bool]] = [
    ("StringEquals", "a", ["a"], True),
    ("StringEquals", "a", ["A"], False),
    ("StringEquals", ["a", "b"], ["b"], True),
    ("StringEquals", ["a", "b"], ["c"], False),
    ("StringEquals", "a", None, False),
    ("StringEquals", "a*", ["ab"], False),
    ("StringEqualsIgnoreCase", "aB", ["Ab"], True),
    ("StringEqualsIgnoreCase", "aB", None, False),
    ("StringNotEquals", "a", ["b"], True),
    ("StringNotEquals", "a", ["a"], False),
    ("StringNotEquals", ["a", "b"], ["b"], False),  # NOR
    ("StringNotEquals", ["a", "b"], ["c"], True),
    ("StringNotEquals", "a", None, True),
    ("StringNotEqualsIgnoreCase", "A", ["a"], False),
    ("StringNotEqualsIgnoreCase", "A", None, True),
    ("StringLike", "a*c", ["abbc"], True),
    ("StringLike", "a?c", ["abbc"], False),
    ("StringLike", "a?c", ["abc"], True),
    ("StringLike", "a*", ["A"], False),
    ("StringLike", "a.c", ["abc"], False),  # a dot is a dot
    ("StringLike", "*", [""], True),
    ("StringLike", "*", None, False),
    ("StringLike", "a*b*c", ["a-b-b-c"], True),
    ("StringLike", "a*b*c", ["a-c-b"], False),
    ("StringNotLike", "a*", ["b"], True),
    ("StringNotLike", "a*", ["ab"], False),
    ("StringNotLike", "a*", None, True),
    ("StringEqualsIfExists", "a", None, True),
    ("StringEqualsIfExists", "a", ["b"], False),
    ("StringNotEqualsIfExists", "a", None, True),
    ("StringNotEqualsIfExists", "a", ["a"], False),
    ("Bool", "true", ["true"], True),
    ("Bool", "true", ["false"], False),
    ("Bool", "false", None, False),
    ("BoolIfExists", "false", None, True),
    ("Null", "true", None, True),
    ("Null", "true", ["x"], False),
    ("Null", "false", ["x"], True),
    ("Null", "false", None, False),
    ("Null", "true", [], True),  # present without a value
    ("ArnEquals", "arn:aws:iam::111122223333:role/app/*", [ARN], True),  # wildcards, as ArnLike
    ("ArnLike", "arn:aws:iam::111122223333:role/app/Work?r", [ARN], True),
    ("ArnLike", "arn:aws:iam::*:role/*", [ARN], True),
    ("ArnLike", "arn:aws:*", [ARN], False),  # each of the six parts is compared by itself
    ("ArnLike", "arn:aws:iam::111122223333:user/*", [ARN], False),
    ("ArnEquals", ARN, None, False),
    ("ArnEquals", ARN, ["no arn"], False),
    ("ArnNotEquals", ARN, [ARN], False),
    ("ArnNotEquals", ARN, [ARN + "2"], True),
    ("ArnNotEquals", ARN, None, True),
    ("ArnNotLike", "arn:aws:iam::111122223333:*", [ARN], False),
    ("NumericEquals", "10", ["10.0"], True),
    ("NumericNotEquals", "10", ["10"], False),
    ("NumericNotEquals", "10", None, True),
    ("NumericLessThan", "10", ["9"], True),
    ("NumericLessThan", "10", ["10"], False),
    ("NumericLessThanEquals", "10", ["10"], True),
    ("NumericGreaterThan", "10", ["10.5"], True),
    ("NumericGreaterThanEquals", "10", ["10"], True),
    ("NumericGreaterThan", "10", ["many"], False),
    ("DateLessThan", "2026-01-01T00:00:00Z", ["2025-12-31T23:59:59Z"], True),
    ("DateGreaterThan", "2026-01-01", ["2026-01-01T00:00:01Z"], True),
    ("DateGreaterThanEquals", "1767225600", ["2026-01-01T00:00:00+00:00"], True),
    ("DateEquals", "2026-01-01", ["soon"], False),
    ("DateNotEquals", "2026-01-01", ["2026-01-01"], False),
    ("IpAddress", "10.0.0.0/8", ["10.1.2.3"], True),
    ("IpAddress", "10.0.0.0/8", ["11.1.2.3"], False),
    ("IpAddress", "2001:db8::/32", ["10.1.2.3"], False),
    ("IpAddress", "10.0.0.0/8", ["nowhere"], False),
    ("NotIpAddress", "10.0.0.0/8", ["10.1.2.3"], False),
    ("NotIpAddress", "10.0.0.0/8", None, True),
    ("ForAnyValue:StringEquals", ["a", "b"], ["x", "b"], True),
    ("ForAnyValue:StringEquals", ["a", "b"], ["x", "y"], False),
    ("ForAnyValue:StringEquals", "a", None, False),
    ("ForAnyValue:StringEqualsIfExists", "a", None, True),
    ("ForAllValues:StringEquals", ["a", "b"], ["a", "b", "a"], True),
    ("ForAllValues:StringEquals", ["a", "b"], ["a", "x"], False),
    ("ForAllValues:StringEquals", "a", None, True),  # "also returns true if there are no keys in the request"
    ("ForAllValues:StringLike", "a*", ["ab", "ac"], True),
    ("ForAnyValue:StringNotEquals", "a", ["a", "b"], True),
    ("ForAnyValue:StringNotEquals", "a", ["a", "a"], False),
    ("ForAnyValue:StringNotEquals", "a", None, False),
    ("ForAllValues:StringNotEquals", "a", ["b", "c"], True),
    ("ForAllValues:StringNotEquals", "a", ["b", "a"], False),
    ("StringEquals", "a", ["b", "a"], True),  # not defined by IAM; ours
    ("StringNotEquals", "a", ["b", "a"], False),  # the same
]


@pytest.mark.parametrize(("operator", "allowed", "given", "expected"), ROWS)
def test_operators_hold_as_iam_documents(
    operator: str, allowed: str | list[str], given: list[str] | None, *, expected: bool
) -> None:
    """Values are ORed, negated ones NORed; an absent key makes a positive operator false and a negated one true."""
    condition = parse_condition(operator, "kms:Some", (allowed,) if isinstance(allowed, str) else tuple(allowed))
    context = RequestContext.of({} if given is None else {"kms:Some": given})
    assert expected == condition.holds(context)


def test_condition_keys_have_no_case() -> None:
    """KMS:some and kms:Some are one key, and the values of both spellings are its values."""
    context = RequestContext.of({"kms:Some": "a"}, {"KMS:some": "b"})
    assert parse_condition("ForAllValues:StringEquals", "kMs:sOme", ("a", "b")).holds(context)
    assert not parse_condition("ForAllValues:StringEquals", "kms:Some", ("a",)).holds(context)


@pytest.mark.parametrize(
    ("operator", "value", "text"),
    [
        ("StringMatches", "a", "StringMatches: unknown condition operator"),
        ("stringequals", "a", "unknown condition operator"),
        ("ForSomeValue:StringEquals", "a", "unknown condition operator"),
        ("BinaryEquals", "a", "not supported here"),
        ("NullIfExists", "true", "Null takes no qualifier"),
        ("ForAnyValue:Null", "true", "Null takes no qualifier"),
        ("IfExists", "a", "unknown condition operator"),
        ("Null", "yes", "'yes' is no value"),
        ("Bool", "1", "'1' is no value"),
        ("NumericEquals", "ten", "'ten' is no value"),
        ("DateEquals", "soon", "'soon' is no value"),
        ("IpAddress", "somewhere", "'somewhere' is no value"),
        ("StringLike", "${aws:username}", "policy variables are not supported"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(operator: str, value: str, text: str) -> None:
    """An operator or value that would be guessed at is an error that names it."""
    with pytest.raises(PolicyError, match=text.replace("$", r"\$")):
        parse_condition(operator, "kms:Some", (value,))


def test_an_empty_condition_key_is_refused() -> None:
    """A condition names a key."""
    with pytest.raises(PolicyError, match="key is empty"):
        parse_condition("StringEquals", "", ("a",))


@pytest.mark.parametrize(
    ("operator", "facts"),
    [
        ("ForAnyValue:StringNotLikeIfExists", (Qualifier.FOR_ANY_VALUE, "StringNotLike", True, True)),
        ("StringEquals", (Qualifier.NONE, "StringEquals", False, False)),
        ("Null", (Qualifier.NONE, "Null", False, False)),
    ],
)
def test_an_operator_tells_its_parts(operator: str, facts: tuple[Any, ...]) -> None:
    """Qualifier, base name, IfExists and negation are seen through one another."""
    condition = parse_condition(operator, "kms:Some", ("true",))
    assert facts == (condition.qualifier, condition.base_name, condition.is_if_exists, condition.is_negated)
