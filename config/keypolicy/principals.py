"""Who asks, and whom a statement names (IAM User Guide, "AWS JSON policy elements: Principal")."""

import re
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, Self

from config.keypolicy.errors import PolicyError

EVERYONE: Final = "*"
_PRINCIPAL_ARN: Final = re.compile(r"arn:(aws[a-z-]*):(iam|sts)::([0-9]{12}):(.+)")
_ACCOUNT_ID: Final = re.compile(r"[0-9]{12}")
_UNIQUE_ID: Final = re.compile(r"A[A-Z0-9]{15,127}")
"""What IAM leaves in place of a user or role that was deleted (AIDA..., AROA...); it names nobody any more."""


@unique
class Match(Enum):
    """How a statement names the one who asks."""

    NO = "no"
    ACCOUNT = "account"
    """By its account: an Allow hands the decision on to the account's IAM policies, a Deny hits everybody in it."""

    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Principal:
    """The one who asks: a role, a session of a role, a user, a federated user or an account's root user."""

    arn: str
    partition: str
    account: str
    resource: str
    """What follows the account: `role/PATH/NAME`, `assumed-role/NAME/SESSION`, `user/PATH/NAME`, `root`."""

    @classmethod
    def parse(cls, arn: str) -> Self:
        """Take the ARN apart.

        Raises:
            PolicyError: not the ARN of somebody who can ask.
        """
        found = _PRINCIPAL_ARN.fullmatch(arn)
        if found is None or not re.fullmatch(
            r"root|(user|role)/.+|assumed-role/[^/]+/[^/]+|federated-user/.+", found[4]
        ):
            raise PolicyError(f"{arn!r} is not the ARN of a role, a session, a user or an account's root")
        return cls(arn, found[1], found[3], found[4])

    @property
    def is_root(self) -> bool:
        """Whether this is the account's root user."""
        return self.resource == "root"

    @property
    def role_name(self) -> str | None:
        """The name of the role, for a role or a session of one. Unique in its account, whatever its path."""
        kind, _, rest = self.resource.partition("/")
        if kind == "assumed-role":
            return rest.partition("/")[0]
        return rest.rpartition("/")[2] if kind == "role" else None

    @property
    def principal_arn(self) -> str:
        """The value of `aws:PrincipalArn`: of a session it is the role's ARN (known here without its path)."""
        if not self.resource.startswith("assumed-role/"):
            return self.arn
        return f"arn:{self.partition}:iam::{self.account}:role/{self.role_name}"


@dataclass(frozen=True, slots=True)
class PrincipalElement:
    """`Principal` or `NotPrincipal` of a statement, in one form: kind (AWS, Service, ...) and value, in order."""

    entries: tuple[tuple[str, str], ...]
    is_negated: bool = False

    def match(self, principal: Principal) -> Match:
        """Tell how it names the one who asks."""
        matches = [_match_entry(kind, value, principal) for kind, value in self.entries]
        if not self.is_negated:
            return max(matches, key=_ORDER.index, default=Match.NO)
        # "You must also specify the account": who is spared has to be listed, and so has its account.
        has_account = EVERYONE in self.values or any(is_account(value, principal.account) for value in self.values)
        return Match.NO if Match.DIRECT in matches and has_account else Match.DIRECT

    @property
    def values(self) -> frozenset[str]:
        """The values of kind AWS."""
        return frozenset(value for kind, value in self.entries if kind == "AWS")


_ORDER: Final = (Match.NO, Match.ACCOUNT, Match.DIRECT)


def is_account(value: str, account: str | None = None) -> bool:
    """Tell whether a principal value names an account, by its id or its root ARN; a certain one, if given."""
    if _ACCOUNT_ID.fullmatch(value):
        return account in {None, value}
    found = _PRINCIPAL_ARN.fullmatch(value)
    return found is not None and found[2] == "iam" and found[4] == "root" and account in {None, found[3]}


def check_aws_principal(value: str) -> None:
    """Check one value of kind AWS.

    Raises:
        PolicyError: IAM takes no wildcard inside an ARN here, only `*` alone.
    """
    if value == EVERYONE or is_account(value) or _UNIQUE_ID.fullmatch(value):
        return
    if "*" in value or "?" in value:
        raise PolicyError(f"{value!r}: a principal has no wildcard inside; only * alone")
    Principal.parse(value)


def _match_entry(kind: str, value: str, principal: Principal) -> Match:
    if kind != "AWS":
        return Match.NO
    if value in {EVERYONE, principal.arn}:
        return Match.DIRECT
    if is_account(value, principal.account):
        return Match.DIRECT if principal.is_root else Match.ACCOUNT
    if is_account(value) or _UNIQUE_ID.fullmatch(value):
        return Match.NO
    named = Principal.parse(value)
    is_same_role = (
        named.resource.startswith("role/")
        and named.account == principal.account
        and named.role_name == principal.role_name
    )
    return Match.DIRECT if is_same_role and principal.resource.startswith("assumed-role/") else Match.NO
