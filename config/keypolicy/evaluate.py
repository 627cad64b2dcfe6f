"""The decision on one request: key policy and IAM policies together, by the rules of IAM.

Sources: IAM User Guide, "Policy evaluation logic"; KMS Developer Guide, "Determining access to AWS KMS keys" and
"Default key policy". An explicit Deny anywhere wins. A key policy that allows the caller by name is enough. One that
names the caller's account hands the decision on: then an IAM policy of the caller has to allow as well. A caller of
another account always needs both. Where there is no key (GenerateRandom, CreateKey), IAM policies alone decide.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final

from config.keypolicy.conditions import RequestContext
from config.keypolicy.model import Effect, Policy, PolicyKind, Statement
from config.keypolicy.principals import Match, Principal

NO_RESOURCE: Final = "*"
"""The resource of an action that has none."""

_ACCOUNT_FIELD: Final = 4  # arn:partition:service:region:account:resource


@unique
class Outcome(Enum):
    """How a request was decided."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "denied explicitly"
    IMPLICIT_DENY = "denied implicitly"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked."""

    action: str
    """With its service: `kms:Decrypt`."""

    principal: Principal
    resource: str
    """The key's ARN (never an alias), or `NO_RESOURCE`."""

    context: RequestContext = field(default_factory=lambda: RequestContext({}))


@dataclass(frozen=True, slots=True)
class Policies:
    """Everything that has a say. `key` is None for an action without a key; `identity` maps names to policies."""

    key: Policy | None
    identity: Mapping[str, Policy] = field(default_factory=dict[str, Policy])


@dataclass(frozen=True, slots=True)
class MatchedStatement:
    """A statement that matched, and whose it is."""

    policy: str
    """`key policy`, or the name of an identity-based policy."""

    kind: PolicyKind
    statement: Statement


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed or not, and by which statements: all that decided it; none for an implicit denial by everybody."""

    outcome: Outcome
    statements: tuple[MatchedStatement, ...]
    missing_allow: PolicyKind | None = None
    """For an implicit denial: the kind of policy that would have had to allow."""

    @property
    def is_allowed(self) -> bool:
        """Whether the request may go on."""
        return self.outcome is Outcome.ALLOWED

    def explain(self, action: str) -> str:
        """Return the clause that KMS ends its AccessDeniedException with."""
        if self.outcome is Outcome.EXPLICIT_DENY:
            is_key = any(found.kind is PolicyKind.KEY for found in self.statements)
            return f"with an explicit deny in {'a resource' if is_key else 'an identity'}-based policy"
        is_key = self.missing_allow is PolicyKind.KEY
        return f"because no {'resource' if is_key else 'identity'}-based policy allows the {action} action"


def evaluate(policies: Policies, request: Request) -> Decision:
    """Decide one request."""
    in_key = list(_matching_in_key_policy(policies.key, request))
    in_identity = list(_matching_in_identity(policies.identity, request))
    everything = [found for found, _ in in_key] + in_identity
    if denies := tuple(found for found in everything if found.statement.effect is Effect.DENY):
        return Decision(Outcome.EXPLICIT_DENY, denies)
    by_identity = tuple(in_identity)
    if policies.key is None:
        return _allow_or_miss(by_identity, PolicyKind.IDENTITY)
    by_name = tuple(found for found, match in in_key if match is Match.DIRECT)
    by_account = tuple(found for found, match in in_key if match is Match.ACCOUNT)
    is_same_account = request.principal.account == _account_of(request.resource)
    if by_name and is_same_account:
        return Decision(Outcome.ALLOWED, by_name)
    if not by_name + by_account:
        return Decision(Outcome.IMPLICIT_DENY, (), PolicyKind.KEY)
    if not by_identity:
        return Decision(Outcome.IMPLICIT_DENY, by_name + by_account, PolicyKind.IDENTITY)
    return Decision(Outcome.ALLOWED, by_name + by_account + by_identity)


def _allow_or_miss(allows: tuple[MatchedStatement, ...], kind: PolicyKind) -> Decision:
    if allows:
        return Decision(Outcome.ALLOWED, allows)
    return Decision(Outcome.IMPLICIT_DENY, (), kind)


def _matching_in_key_policy(policy: Policy | None, request: Request) -> Iterator[tuple[MatchedStatement, Match]]:
    for statement in policy.statements if policy else ():
        match = statement.principal.match(request.principal) if statement.principal else Match.NO
        if match is not Match.NO and _matches(statement, request):
            yield MatchedStatement("key policy", PolicyKind.KEY, statement), match


def _matching_in_identity(policies: Mapping[str, Policy], request: Request) -> Iterator[MatchedStatement]:
    for name, policy in policies.items():
        for statement in policy.statements:
            if _matches(statement, request):
                yield MatchedStatement(name, PolicyKind.IDENTITY, statement)


def _matches(statement: Statement, request: Request) -> bool:
    return (
        statement.matches_action(request.action)
        and statement.matches_resource(request.resource)
        and all(condition.holds(request.context) for condition in statement.conditions)
    )


def _account_of(arn: str) -> str:
    return arn.split(":")[_ACCOUNT_FIELD]
