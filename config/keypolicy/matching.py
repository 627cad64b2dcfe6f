"""Wildcards of IAM: `*` is any number of characters, `?` exactly one; nothing else is special."""

import functools
import re
from typing import Final

ARN_PARTS: Final = 6
"""arn:partition:service:region:account:resource; the resource may have colons of its own."""


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    first, *others = (re.escape(piece).replace(r"\?", ".") for piece in re.split(r"\*+", pattern))
    if not others:
        return re.compile(first, re.DOTALL)
    *middle, last = others
    # The leftmost place of each middle piece is as good as any, so the groups are atomic: nothing is tried twice, and
    # a hostile pattern costs no more than its length times the value's.
    return re.compile(first + "".join(f"(?>.*?{piece})" for piece in middle) + ".*" + last, re.DOTALL)


def matches_wildcard(pattern: str, value: str) -> bool:
    """Tell whether the whole value fits the pattern; case counts."""
    return _compile(pattern).fullmatch(value) is not None


def matches_action(pattern: str, action: str) -> bool:
    """Tell whether an action (`kms:Decrypt`) fits; case does not count (IAM reference, Action)."""
    return matches_wildcard(pattern.lower(), action.lower())


def matches_arn(pattern: str, value: str) -> bool:
    """Tell whether an ARN fits part by part, as ArnEquals and ArnLike do: a wildcard does not cross a colon.

    What is no ARN fits nothing (IAM reference, ARN condition operators).
    """
    pattern_parts = pattern.split(":", ARN_PARTS - 1)
    value_parts = value.split(":", ARN_PARTS - 1)
    if len(pattern_parts) != ARN_PARTS or len(value_parts) != ARN_PARTS:
        return False
    return all(matches_wildcard(part, given) for part, given in zip(pattern_parts, value_parts, strict=True))
