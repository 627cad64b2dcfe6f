"""Whether a role's IAM policies allow what a worker of it calls, and nothing that it must not: simulated. Pure.

Asked by our own evaluator of IAM's rules, not by calling: a call that takes messages or writes items is no examination.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from config.engine import EngineSettings
from config.keypolicy import Policies, Policy, Principal, Request, attestation_context, evaluate
from config.keypolicy.conditions import RequestContext
from config.keypolicy.evaluate import NO_RESOURCE
from config.worker import WorkerRole, WorkerSettings
from workers.doctor.finding import Finding, Grade

_TAKE: Final = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes")
_SEND: Final = ("sqs:SendMessage", "sqs:GetQueueAttributes")
_READ: Final = ("dynamodb:GetItem", "dynamodb:BatchGetItem")
_WRITE_ONCE: Final = ("dynamodb:GetItem", "dynamodb:PutItem")
_CHANGE: Final = ("dynamodb:UpdateItem", "dynamodb:DeleteItem")
_RANDOM: Final = "kms:GenerateRandom"


def check_permissions(
    job: WorkerRole, settings: WorkerSettings, identity: Mapping[str, Policy], pcr0: bytes | None
) -> list[Finding]:
    """Ask for each call of a worker, and for what its role must not be allowed.

    Args:
        job: the kind of worker.
        settings: queues, tables and Region.
        identity: the IAM policies of the instance role, by name.
        pcr0: of the enclave that runs; None when it could not be asked.
    """
    arns = _Arns(settings, settings.role(job).engine)
    simulation = _Simulation(arns.role, identity)
    needed = list(_needed(job, settings, arns))
    findings = [
        _finding(job, Grade.FAIL, f"{action} on {resource} is not allowed", "deploy the foundation again")
        for action, resource in needed
        if not simulation.allows(action, resource)
    ]
    findings += [
        _finding(job, Grade.WARN, f"{action} on {resource} is allowed", "take it away: records are written once")
        for action, resource in _too_much(job, arns, settings)
        if simulation.allows(action, resource)
    ]
    if job == "generate":
        findings += _judge_randomness(simulation, pcr0)
    elif simulation.allows(_RANDOM, NO_RESOURCE, pcr0):
        findings.append(_finding(job, Grade.WARN, f"{_RANDOM} is allowed", "take it away: signers need none"))
    return findings or [_finding(job, Grade.OK, f"{len(needed)} calls are allowed, and nothing that must not be")]


def _needed(job: WorkerRole, settings: WorkerSettings, arns: "_Arns") -> Iterator[tuple[str, str]]:
    engine = settings.role(job).engine
    yield from _each(_TAKE, arns.queue(engine.queue_url))
    for url in (engine.reply_queue_url, engine.dead_letter_queue_url):
        if url is not None:
            yield from _each(_SEND, arns.queue(url))
    tables = [settings.store.table]
    if job == "generate":
        tables.append(settings.store.birth_table)
    for table in tables:
        yield from _each(_WRITE_ONCE if job == "generate" else _READ, arns.table(table))
        yield "dynamodb:DescribeTable", arns.table(table)
    if job == "sign" and settings.brakes.table is not None:
        yield from _each(_READ, arns.table(settings.brakes.table))


def _too_much(job: WorkerRole, arns: "_Arns", settings: WorkerSettings) -> Iterator[tuple[str, str]]:
    for table in (settings.store.table, settings.store.birth_table):
        yield from _each(_CHANGE if job == "generate" else (*_CHANGE, "dynamodb:PutItem"), arns.table(table))
    if job == "sign" and settings.brakes.table is not None:
        yield from _each((*_CHANGE, "dynamodb:PutItem"), arns.table(settings.brakes.table))


def _judge_randomness(simulation: "_Simulation", pcr0: bytes | None) -> list[Finding]:
    """GenerateRandom has no key, hence no key policy: the role's own policies alone protect it."""
    fix = "nitro-signer policy make --iam"
    if simulation.allows(_RANDOM, NO_RESOURCE):
        return [_finding("generate", Grade.FAIL, f"{_RANDOM} is allowed without attestation", fix)]
    if pcr0 is None:
        text = f"{_RANDOM} was not simulated: the enclave does not say its PCR0"
        return [_finding("generate", Grade.WARN, text, "see why it is not ready")]
    if not simulation.allows(_RANDOM, NO_RESOURCE, pcr0):
        return [_finding("generate", Grade.FAIL, f"{_RANDOM} is not allowed to the PCR0 of the enclave", fix)]
    return []


def _finding(job: WorkerRole, grade: Grade, text: str, fix: str = "") -> Finding:
    return Finding(f"{job} permissions", grade, text, fix)


def _each(actions: Sequence[str], resource: str) -> Iterator[tuple[str, str]]:
    for action in actions:
        yield action, resource


class _Arns:
    """Names of queues and tables as policies have them. The account is that of the queue."""

    def __init__(self, settings: WorkerSettings, engine: EngineSettings) -> None:
        self._partition = "aws" if settings.kms_key_arn is None else settings.kms_key_arn.split(":")[1]
        self._region = settings.region
        self._account = engine.queue_url.rsplit("/", 2)[1]

    @property
    def role(self) -> Principal:
        """Some role of the account: IAM policies do not say whose they are."""
        return Principal.parse(f"arn:{self._partition}:iam::{self._account}:role/simulated")

    def queue(self, url: str) -> str:
        account, name = url.rsplit("/", 2)[1:]
        return f"arn:{self._partition}:sqs:{self._region}:{account}:{name}"

    def table(self, name: str) -> str:
        return f"arn:{self._partition}:dynamodb:{self._region}:{self._account}:table/{name}"


class _Simulation:
    """One role and its policies."""

    def __init__(self, role: Principal, identity: Mapping[str, Policy]) -> None:
        self._role = role
        self._policies = Policies(None, identity)

    def allows(self, action: str, resource: str, pcr0: bytes | None = None) -> bool:
        """Return whether a call would be allowed, with the document of an image or without one."""
        context = RequestContext.of(
            {"aws:PrincipalArn": self._role.principal_arn, "aws:PrincipalAccount": self._role.account},
            {} if pcr0 is None else attestation_context({0: pcr0}),
        )
        request = Request(action=action, principal=self._role, resource=resource, context=context)
        return evaluate(self._policies, request).is_allowed
