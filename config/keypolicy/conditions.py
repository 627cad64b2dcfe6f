"""Conditions of a statement: operators, qualifiers, and what they mean for absent and multi-valued keys.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "Set operators for multi-valued context
keys". Several operators and several keys are ANDed, several values of one key are ORed; a negated operator with several
values is a NOR. Operator names are taken as IAM spells them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum, unique
from ipaddress import ip_address, ip_network
from typing import Final, Self, TypeAlias

from config.keypolicy.errors import PolicyError
from config.keypolicy.matching import matches_arn, matches_wildcard

_Compare: TypeAlias = Callable[[str, str], bool]
"""Policy value, request value."""

_IF_EXISTS: Final = "IfExists"


@unique
class Qualifier(Enum):
    """A set operator in front of the operator's name."""

    NONE = ""
    FOR_ANY_VALUE = "ForAnyValue"
    FOR_ALL_VALUES = "ForAllValues"


@dataclass(frozen=True, slots=True)
class _Base:
    """An operator without its qualifiers. A negated one is true when no value of the policy compares."""

    compare: _Compare
    check_value: Callable[[str], object]
    """Raises ValueError for a policy value that the operator cannot compare with."""

    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The condition keys of a request, each with its values; names without case. An absent key has no entry."""

    values: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, *parts: Mapping[str, str | Iterable[str]]) -> Self:
        """Join mappings of a key to its value or values. Names that differ in case only are the same key."""
        joined: dict[str, tuple[str, ...]] = {}
        for part in parts:
            for name, value in part.items():
                values = (value,) if isinstance(value, str) else tuple(value)
                joined[name.lower()] = joined.get(name.lower(), ()) + values
        return cls(joined)

    def get(self, name: str) -> tuple[str, ...]:
        """Return the values of a key; none for an absent one."""
        return self.values.get(name.lower(), ())


@dataclass(frozen=True, slots=True)
class Condition:
    """One key under one operator."""

    operator: str
    """As written, with qualifiers."""

    key: str
    values: tuple[str, ...]

    def holds(self, context: RequestContext) -> bool:
        """Tell whether the request fulfils it."""
        qualifier, name, if_exists = _split(self.operator)
        given = context.get(self.key)
        if name == "Null":
            return any((value.lower() == "true") == (not given) for value in self.values)
        base = _OPERATORS[name]
        if not given:
            if if_exists or qualifier is Qualifier.FOR_ALL_VALUES:
                return True
            # "If the key is not present, negated operators are true" - but not for an empty set under ForAnyValue.
            return base.is_negated and qualifier is Qualifier.NONE
        fitting = [any(base.compare(value, one) for value in self.values) for one in given]
        if qualifier is Qualifier.FOR_ANY_VALUE:
            return not all(fitting) if base.is_negated else any(fitting)
        if qualifier is Qualifier.FOR_ALL_VALUES:
            return not any(fitting) if base.is_negated else all(fitting)
        # IAM does not define a plain operator on several request values; one that fits counts, for both directions.
        return any(fitting) != base.is_negated

    @property
    def base_name(self) -> str:
        """The operator without its qualifiers."""
        return _split(self.operator)[1]

    @property
    def qualifier(self) -> Qualifier:
        """The set operator."""
        return _split(self.operator)[0]

    @property
    def is_if_exists(self) -> bool:
        """Whether an absent key fulfils it."""
        return _split(self.operator)[2]

    @property
    def is_negated(self) -> bool:
        """Whether the operator is true of what it does not name, absent keys included."""
        return self.base_name != "Null" and _OPERATORS[self.base_name].is_negated


def parse_condition(operator: str, key: str, values: tuple[str, ...]) -> Condition:
    """Check operator, key and values.

    Raises:
        PolicyError: an operator that IAM does not have or that is not supported, or a value that it cannot take.
    """
    name = _split(operator)[1]
    if name == "Null":
        if operator != "Null":
            raise PolicyError(f"{operator}: Null takes no qualifier")
        check: Callable[[str], object] = _check_bool
    elif name in _OPERATORS:
        check = _OPERATORS[name].check_value
    else:
        hint = " (BinaryEquals is not supported here)" if name == "BinaryEquals" else ""
        raise PolicyError(f"{operator}: unknown condition operator{hint}")
    if not key:
        raise PolicyError(f"{operator}: a condition key is empty")
    for value in values:
        if "${" in value:
            raise PolicyError(f"{operator}.{key}: policy variables are not supported")
        try:
            check(value)
        except (ValueError, InvalidOperation) as error:
            raise PolicyError(f"{operator}.{key}: {value!r} is no value for this operator") from error
    return Condition(operator, key, values)


def _split(operator: str) -> tuple[Qualifier, str, bool]:
    prefix, colon, rest = operator.partition(":")
    qualifier, name = Qualifier.NONE, operator
    if colon and prefix in {Qualifier.FOR_ANY_VALUE.value, Qualifier.FOR_ALL_VALUES.value}:
        qualifier, name = Qualifier(prefix), rest
    return qualifier, name.removesuffix(_IF_EXISTS), name.endswith(_IF_EXISTS)


def _check_bool(value: str) -> None:
    if value.lower() not in {"true", "false"}:
        raise ValueError(value)


def _parse_date(value: str) -> datetime:
    """ISO 8601, or seconds since 1970 (IAM reference, Date condition operators)."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return datetime.fromtimestamp(float(value), tz=UTC)
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _numeric(compare: Callable[[Decimal, Decimal], bool]) -> _Compare:
    def of_text(value: str, given: str) -> bool:
        try:
            return compare(Decimal(value), Decimal(given))
        except InvalidOperation:
            return False

    return of_text


def _date(compare: Callable[[datetime, datetime], bool]) -> _Compare:
    def of_text(value: str, given: str) -> bool:
        try:
            return compare(_parse_date(value), _parse_date(given))
        except (ValueError, OverflowError):
            return False

    return of_text


def _equals(value: str, given: str) -> bool:
    return value == given


def _equals_ignore_case(value: str, given: str) -> bool:
    return value.lower() == given.lower()


def _in_network(value: str, given: str) -> bool:
    try:
        return ip_address(given) in ip_network(value, strict=False)
    except ValueError:
        return False


def _operators() -> dict[str, _Base]:
    table = {
        "StringEquals": _Base(_equals, str),
        "StringNotEquals": _Base(_equals, str, is_negated=True),
        "StringEqualsIgnoreCase": _Base(_equals_ignore_case, str),
        "StringNotEqualsIgnoreCase": _Base(_equals_ignore_case, str, is_negated=True),
        "StringLike": _Base(matches_wildcard, str),
        "StringNotLike": _Base(matches_wildcard, str, is_negated=True),
        "Bool": _Base(_equals_ignore_case, _check_bool),
        "IpAddress": _Base(_in_network, lambda value: ip_network(value, strict=False)),
        "NotIpAddress": _Base(_in_network, lambda value: ip_network(value, strict=False), is_negated=True),
    }
    for name in ("Equals", "Like"):  # "ArnEquals and ArnLike behave the same"
        table[f"Arn{name}"] = _Base(matches_arn, str)
        table[f"ArnNot{name}"] = _Base(matches_arn, str, is_negated=True)
    for family, make, check in (("Numeric", _numeric, Decimal), ("Date", _date, _parse_date)):
        table[f"{family}Equals"] = _Base(make(lambda value, given: given == value), check)
        table[f"{family}NotEquals"] = _Base(make(lambda value, given: given == value), check, is_negated=True)
        table[f"{family}LessThan"] = _Base(make(lambda value, given: given < value), check)
        table[f"{family}LessThanEquals"] = _Base(make(lambda value, given: given <= value), check)
        table[f"{family}GreaterThan"] = _Base(make(lambda value, given: given > value), check)
        table[f"{family}GreaterThanEquals"] = _Base(make(lambda value, given: given >= value), check)
    return table


_OPERATORS: Final = _operators()
