"""One call on its way through the service: what is known of it so far, for the decision and for the audit line."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from config.keypolicy import (
    Policies,
    Policy,
    Request,
    attestation_context,
    encryption_context_keys,
    evaluate,
)
from config.keypolicy.conditions import RequestContext
from config.keypolicy.evaluate import NO_RESOURCE
from local.kms.errors import KmsError
from local.kms.keystore import KmsKey
from local.kms.principals import Caller
from local.kms.recipients import AttestedCaller


@dataclass(slots=True)
class Call:
    """A call. The parts below `now_s` become known on the way."""

    operation: str
    """Without its service: `Decrypt`."""

    caller: Caller
    source_ip: str
    now_s: float
    attested: AttestedCaller | None = None
    key: KmsKey | None = None
    encryption_context: dict[str, str] = field(default_factory=dict[str, str])
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    """For the audit line: members of the request that are no secrets."""

    def authorize(self, key: KmsKey | None, **context: str) -> None:
        """Let key policy and IAM policies decide; `context` are further `kms:` condition keys.

        Raises:
            KmsError: AccessDeniedException in KMS's words.
        """
        self.key = key
        decision = evaluate(
            Policies(key.policy if key else None, self.caller.identity_policies), self._request(key, context)
        )
        if not decision.is_allowed:
            action = f"kms:{self.operation}"
            raise KmsError(
                "AccessDeniedException",
                f"User: {self.caller.principal.arn} is not authorized to perform: {action} on resource: "
                f"{key.arn if key else NO_RESOURCE} {decision.explain(action)}",
            )

    def may_put_policy(self, key: KmsKey, policy: Policy) -> bool:
        """Tell whether the caller could change the key's policy again once `policy` is in force."""
        request = self._request(key, {}, action="kms:PutKeyPolicy")
        return evaluate(Policies(policy, self.caller.identity_policies), request).is_allowed

    def _request(self, key: KmsKey | None, context: dict[str, str], *, action: str | None = None) -> Request:
        principal = self.caller.principal
        time = datetime.fromtimestamp(self.now_s, tz=UTC).isoformat(timespec="seconds")
        common = {
            "aws:PrincipalArn": principal.principal_arn,
            "aws:PrincipalAccount": principal.account,
            "aws:SecureTransport": "true",
            "aws:SourceIp": self.source_ip,
            "aws:CurrentTime": time,
            "aws:EpochTime": str(int(self.now_s)),
            "kms:CallerAccount": principal.account,
        }
        return Request(
            action=action or f"kms:{self.operation}",
            principal=principal,
            resource=key.arn if key else NO_RESOURCE,
            context=RequestContext.of(
                common,
                {f"kms:{name}": value for name, value in context.items()},
                encryption_context_keys(self.encryption_context),
                attestation_context(self.attested.pcrs) if self.attested else {},
            ),
        )
