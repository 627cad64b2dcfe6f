"""Enclaves: there, ready, not in debug mode, and admitted by the key policy."""

import json
from typing import Final, cast

from config.keypolicy import (
    Policies,
    Policy,
    PolicyError,
    Principal,
    Request,
    attestation_context,
    evaluate,
)
from config.keypolicy.conditions import RequestContext
from config.worker import WorkerRole
from protocol.address import Address
from protocol.channel import open_channel
from protocol.errors import SignerError
from protocol.messages import HelloResult, Role, Status, StatusResult
from protocol.version import SOFTWARE
from workers.doctor.finding import Finding, Grade

_TIMEOUT_S: Final = 10.0
_ACTIONS: Final = {Role.GENERATOR: "kms:GenerateDataKey", Role.SIGNER: "kms:Decrypt"}
_ROLES: Final = {"generate": Role.GENERATOR, "sign": Role.SIGNER}
_NOT_READY_FIXES: Final = {
    "bad_config": "the image was built with a configuration that cannot be used: build it again",
    "nsm_unavailable": "no /dev/nsm in the enclave: replace the instance",
    "debug_mode": "end it, and start it without --debug-mode",
    "clock_drift": "is the parent's clock right? (chronyc tracking)",
    "no_credentials": "no worker has lent credentials yet: are workers running, and do they find the role's?",
    "credentials_expired": "workers cannot renew credentials: instance profile, metadata service",
}


async def check_enclave(
    job: WorkerRole, base: Address, *, kms_key_arn: str | None, key_policy: Policy | None
) -> list[Finding]:
    """Ask each process of one enclave. What it says is not proven: `nitro-signer enclave attest` does that."""
    findings: list[Finding] = []
    index, processes = 0, 1
    while index < processes:
        place = base.sibling(index)
        index += 1
        check = f"enclave {place}"
        try:
            async with open_channel(place, software=SOFTWARE, timeout_s=_TIMEOUT_S) as channel:
                hello = channel.hello
                status = cast("StatusResult", await channel.call(Status(), timeout_s=_TIMEOUT_S))
        except SignerError as error:
            fix = "systemctl status nitro-signer-enclave; nitro-cli describe-enclaves"
            findings.append(Finding(check, Grade.FAIL, error.detail, fix))
            continue
        processes = max(1, hello.enclave.processes)
        findings += [_judge_state(check, status), *_judge_identity(check, job, hello, kms_key_arn)]
        if index == 1:  # all processes are one image
            findings.append(_judge_image(check, hello, key_policy))
    return findings


async def ask_pcr0(place: Address) -> bytes | None:
    """Return the PCR0 that an enclave says it has; None when it cannot be asked, or does not know."""
    try:
        async with open_channel(place, software=SOFTWARE, timeout_s=_TIMEOUT_S) as channel:
            return channel.hello.enclave.pcr0
    except SignerError:
        return None


def _judge_state(check: str, status: StatusResult) -> Finding:
    if status.ready:
        left = status.credentials_expire_in_s
        return Finding(check, Grade.OK, "ready" + ("" if left is None else f", credentials for {left} s"))
    reason = "unknown" if status.reason is None else status.reason.value
    fix = _NOT_READY_FIXES.get(reason, "wait; replace the instance if it stays so")
    return Finding(check, Grade.FAIL, f"not ready: {reason}", fix)


def _judge_identity(check: str, job: WorkerRole, hello: HelloResult, kms_key_arn: str | None) -> list[Finding]:
    findings: list[Finding] = []
    enclave = hello.enclave
    if enclave.role is not _ROLES[job]:
        text = f"its role is {enclave.role or 'unknown'}"
        findings.append(Finding(check, Grade.FAIL, text, f"{job} jobs need a {_ROLES[job]}"))
    if kms_key_arn is not None and enclave.kms_key_arn != kms_key_arn:
        text = f"its image was made for the KMS key {enclave.kms_key_arn}"
        findings.append(Finding(check, Grade.FAIL, text, "build the image for the key of the settings"))
    return findings


def _judge_image(check: str, hello: HelloResult, key_policy: Policy | None) -> Finding:
    enclave = hello.enclave
    check = f"{check} image"
    if enclave.pcr0 is None or enclave.role is None:
        return Finding(check, Grade.FAIL, "it does not know its PCR0 or its role", "see why it is not ready")
    if not any(enclave.pcr0):
        return Finding(check, Grade.FAIL, "PCR0 is zero: debug mode", "end it, and start it without --debug-mode")
    if key_policy is None:
        fix = "--key-policy with the output of aws kms get-key-policy"
        return Finding(check, Grade.WARN, "PCR0 was not compared with the key policy", fix)
    action = _ACTIONS[enclave.role]
    try:
        caller = Principal.parse(_named_for(key_policy, action))
    except PolicyError:
        return Finding(check, Grade.FAIL, f"the key policy names nobody for {action}", "nitro-signer policy make")
    request = Request(
        action=action,
        principal=caller,
        resource=f"arn:{caller.partition}:kms:us-east-1:{caller.account}:key/simulated",
        context=RequestContext.of(
            {"aws:PrincipalArn": caller.principal_arn, "aws:PrincipalAccount": caller.account},
            {"kms:CallerAccount": caller.account},
            attestation_context({0: enclave.pcr0}),
        ),
    )
    decision = evaluate(Policies(key_policy), request)
    if decision.is_allowed:
        return Finding(check, Grade.OK, f"the key policy allows {action} to this PCR0")
    by = ", ".join(found.statement.name for found in decision.statements) or "no statement allows it"
    fix = f"admit PCR0 {enclave.pcr0.hex()}, or run the image that is admitted"
    return Finding(check, Grade.FAIL, f"the key policy denies {action} to this PCR0 ({by})", fix)


def _named_for(policy: Policy, action: str) -> str:
    """Return the first principal that a statement about the action names by ARN.

    Raises:
        PolicyError: there is none.
    """
    for statement in policy.statements:
        if statement.matches_action(action) and statement.principal is not None:
            for value in sorted(statement.principal.values):
                if value.startswith("arn:"):
                    return value
    raise PolicyError(f"nobody is named for {json.dumps(action)}")
