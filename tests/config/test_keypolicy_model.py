"""Parsing of policies: what KMS and IAM take parses, everything else names statement and element."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.keypolicy import MAX_KEY_POLICY_BYTES, PolicyError, PolicyKind, parse_policy
from config.keypolicy.matching import matches_arn, matches_wildcard

GOOD: dict[str, Any] = {"Sid": "S", "Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}


def policy(**changes: Any) -> str:
    """Return a key policy whose one statement is changed; None takes an element away."""
    changed = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return json.dumps({"Version": "2012-10-17", "Statement": [changed]})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"Effect": "allow"}, "statement 1 (S): Effect: Allow or Deny"),
        ({"Effect": None}, "statement 1 (S): Effect: Allow or Deny"),
        ({"Effect": ["Allow"]}, "statement 1 (S): Effect: Allow or Deny"),
        ({"Sid": 7}, "statement 1: Sid: a text"),
        ({"Sid": None, "Effect": "x"}, "statement 1: Effect: Allow or Deny"),
        ({"Effects": "Allow"}, "statement 1 (S): Effects: unknown element"),
        ({"Principal": None}, "statement 1 (S): Principal: element is missing"),
        ({"Principal": "arn:aws:iam::111122223333:root"}, 'Principal: "*" or an object'),
        ({"Principal": {}}, 'Principal: "*" or an object'),
        ({"Principal": {"Aws": "*"}}, "Principal.Aws: one of AWS, CanonicalUser, Federated, Service"),
        ({"Principal": {"AWS": []}}, "Principal.AWS: a text or a list of texts"),
        ({"Principal": {"AWS": "arn:aws:iam::111122223333:role/*"}}, "no wildcard inside"),
        ({"Principal": {"AWS": "Alice"}}, "Principal.AWS: 'Alice' is not the ARN of"),
        ({"NotPrincipal": "*"}, "Principal and NotPrincipal exclude each other"),
        ({"Principal": None, "NotPrincipal": "*"}, "NotPrincipal: not with Allow"),
        ({"NotAction": "kms:*"}, "Action and NotAction exclude each other"),
        ({"Action": "Decrypt"}, "Action: 'Decrypt' is neither * nor SERVICE:ACTION"),
        ({"Action": "kms:"}, "Action: 'kms:' is neither"),
        ({"Action": 1}, "Action: a text or a list of texts"),
        ({"Action": [""]}, "Action: a text or a list of texts"),
        ({"NotResource": "*"}, "Resource and NotResource exclude each other"),
        ({"Resource": "key/1"}, "Resource: 'key/1' is neither * nor an ARN"),
        ({"Resource": "arn:aws:kms:::key/${aws:username}"}, "Resource: policy variables are not supported"),
        ({"Condition": []}, "Condition: an object of operators"),
        ({"Condition": {"StringEquals": "x"}}, "Condition.StringEquals: an object of condition keys"),
        ({"Condition": {"StringEquals": {"kms:a": None}}}, "Condition.StringEquals.kms:a: a text, number or boolean"),
        ({"Condition": {"StringIs": {"kms:a": "x"}}}, "Condition.StringIs: unknown condition operator"),
    ],
)
def test_an_error_names_statement_and_element(changes: dict[str, Any], text: str) -> None:
    """The text has the statement's number and Sid, and the element that is wrong."""
    with pytest.raises(PolicyError) as error:
        parse_policy(policy(**changes), PolicyKind.KEY)
    assert text in str(error.value)
    assert str(error.value).startswith("statement 1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON|bytes"),
        ("[]", "a JSON object"),
        ("{}", "Statement: one statement or a list"),
        ('{"Statement": []}', "Statement: one statement or a list"),
        ('{"Statement": [1]}', "statement 1: a statement is a JSON object"),
        ('{"Version": "2020-01-01", "Statement": []}', "Version: one of 2012-10-17, 2008-10-17"),
        ('{"Version": [], "Statement": []}', "Version: one of"),
        ('{"version": "2012-10-17", "Statement": []}', "version: unknown element"),
        (json.dumps({"Id": 1, "Statement": GOOD}), "Id: a text"),
        ('{"Statement": {}, "Statement": {}}', "Statement: stands twice"),
    ],
)
def test_the_document_is_checked(text: str, problem: str) -> None:
    """What is no policy at all says so."""
    with pytest.raises(PolicyError, match=problem):
        parse_policy(text, PolicyKind.KEY)


def test_deep_nesting_is_an_error_of_the_policy() -> None:
    """A policy nested too deeply for the parser is refused like any other bad one."""
    with pytest.raises(PolicyError, match="nested too deeply"):
        parse_policy("[" * 200_000, PolicyKind.IDENTITY)


def test_a_key_policy_has_at_most_32_kib() -> None:
    """The limit is inclusive, counts bytes, and is only for key policies."""
    empty = policy(Sid="")
    fitting = policy(Sid="x" * (MAX_KEY_POLICY_BYTES - len(empty)))
    assert len(parse_policy(fitting, PolicyKind.KEY).statements) == 1
    with pytest.raises(PolicyError, match="at most 32768"):
        parse_policy(fitting + " ", PolicyKind.KEY)
    identity = json.dumps({"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}) + " " * 40_000
    assert len(parse_policy(identity, PolicyKind.IDENTITY).statements) == 1


def test_short_forms_parse() -> None:
    """A statement alone, texts alone, no version: all as IAM takes them."""
    parsed = parse_policy(json.dumps({"Id": "k", "Statement": GOOD}), PolicyKind.KEY)
    [statement] = parsed.statements
    assert (parsed.version, parsed.id, statement.name) == ("2008-10-17", "k", "S")
    assert parse_policy(policy(Sid=None), PolicyKind.KEY).statements[0].name == "statement 1"


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}, "Principal: not in an identity"),
        ({"Effect": "Allow", "Action": "kms:*"}, "Resource: element is missing"),
        ({"Effect": "Allow", "Resource": "*"}, "Action: element is missing"),
    ],
)
def test_identity_policies_have_rules_of_their_own(statement: dict[str, Any], text: str) -> None:
    """No principal, and nothing may be missing."""
    with pytest.raises(PolicyError, match=text):
        parse_policy(json.dumps({"Statement": statement}), PolicyKind.IDENTITY)


def test_sids_of_an_identity_policy_are_unique() -> None:
    """IAM refuses a Sid that stands twice; KMS does not."""
    iam = {"Sid": "S", "Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    with pytest.raises(PolicyError, match="not unique"):
        parse_policy(json.dumps({"Statement": [iam, iam]}), PolicyKind.IDENTITY)
    assert len(parse_policy(json.dumps({"Statement": [GOOD, GOOD]}), PolicyKind.KEY).statements) == 2


@given(st.text(max_size=200))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No input makes another exception."""
    for kind in PolicyKind:
        try:
            parse_policy(text, kind)
        except PolicyError:
            continue


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["*", "Allow", "kms:*"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*GOOD, "Condition", "NotAction", "AWS", "StringLike", "Null"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "Condition", "NotPrincipal"]), _JSON))
def test_any_statement_parses_or_is_refused(statement: dict[str, Any]) -> None:
    """No JSON value in any element makes another exception."""
    for kind in PolicyKind:
        try:
            parse_policy(json.dumps({"Statement": statement}), kind)
        except PolicyError:
            continue


def _matches_slowly(pattern: str, value: str) -> bool:
    if not pattern:
        return not value
    if pattern[0] == "*":
        return any(_matches_slowly(pattern[1:], value[cut:]) for cut in range(len(value) + 1))
    return bool(value) and pattern[0] in {"?", value[0]} and _matches_slowly(pattern[1:], value[1:])


@given(st.text("ab*?.[", max_size=8), st.text("ab.[\n", max_size=8))
def test_wildcards_match_as_their_definition(pattern: str, value: str) -> None:
    """The quick matcher agrees with the definition, character by character."""
    assert _matches_slowly(pattern, value) == matches_wildcard(pattern, value)


def test_a_hostile_pattern_costs_little() -> None:
    """Many stars against a long value that nearly fits end at once (a backtracking matcher would need ages)."""
    assert not matches_wildcard("a*" * 200 + "b", "a" * 2000)


def test_arn_parts_are_compared_one_by_one() -> None:
    """A wildcard does not cross a colon, except in the last part, which may have colons of its own."""
    assert matches_arn("arn:aws:logs:*:*:*", "arn:aws:logs:us-east-1:111122223333:log-group:x:y")
    assert not matches_arn("arn:aws:*:*", "arn:aws:logs:us-east-1:111122223333:log-group:x")
