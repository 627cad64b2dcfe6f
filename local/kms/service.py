"""From a signed request to an answer: who asks, what for, may they, the answer, the audit line. No sockets here."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from local.kms.audit import audit_line
from local.kms.call import Call
from local.kms.errors import KmsError
from local.kms.keystore import KeyStore
from local.kms.management import KeyManagement
from local.kms.principals import Caller, PrincipalRegistry
from local.kms.recipients import DocumentVerifier
from local.kms.requests import (
    CreateAliasInput,
    CreateKeyInput,
    DecryptInput,
    EncryptInput,
    GenerateDataKeyInput,
    GenerateRandomInput,
    GetKeyPolicyInput,
    InputT,
    KeyInput,
    ListInput,
    PutKeyPolicyInput,
    parse_input,
)
from local.kms.sigv4 import Authorization, SignedRequest
from local.kms.use import KeyUse
from protocol.clock import Clock

_TARGET_PREFIX: Final = "TrentService."
_HTTP_OK: Final = 200

_Operation: TypeAlias = Callable[[Call, bytes], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: AWS JSON 1.1."""

    status: int
    body: bytes
    request_id: str


class KmsService:
    """The whole service behind the HTTP shell.

    Args:
        store: keys and aliases.
        registry: access keys.
        verifier: of attestation documents.
        region: the Region that requests are signed for.
        account: the account that everything belongs to.
        clock: time of signatures, documents and audit lines.
        write_audit: takes each audit line.
    """

    def __init__(
        self,
        store: KeyStore,
        registry: PrincipalRegistry,
        verifier: DocumentVerifier,
        *,
        region: str,
        account: str,
        clock: Clock,
        write_audit: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._region = region
        self._clock = clock
        self._write_audit = write_audit
        use, management = KeyUse(store, verifier), KeyManagement(store, account=account)
        self._operations: Mapping[str, _Operation] = {
            "CreateAlias": _taking(CreateAliasInput, management.create_alias),
            "CreateKey": _taking(CreateKeyInput, management.create_key),
            "Decrypt": _taking(DecryptInput, use.decrypt),
            "DescribeKey": _taking(KeyInput, management.describe_key),
            "DisableKey": _taking(KeyInput, management.disable_key),
            "EnableKey": _taking(KeyInput, management.enable_key),
            "Encrypt": _taking(EncryptInput, use.encrypt),
            "GenerateDataKey": _taking(GenerateDataKeyInput, use.generate_data_key),
            "GenerateRandom": _taking(GenerateRandomInput, use.generate_random),
            "GetKeyPolicy": _taking(GetKeyPolicyInput, management.get_key_policy),
            "ListAliases": _taking(ListInput, management.list_aliases),
            "ListKeys": _taking(ListInput, management.list_keys),
            "PutKeyPolicy": _taking(PutKeyPolicyInput, management.put_key_policy),
        }

    def handle(self, request: SignedRequest, *, source_ip: str, injected: KmsError | None = None) -> Answer:
        """Serve one request; `injected` is an error that a fault puts in place of the service."""
        request_id = str(uuid.uuid4())
        now_s = self._clock()
        try:
            authorization = Authorization.parse(request.headers.get("authorization"))
        except KmsError as error:
            return _refuse(error, request_id)  # nobody to write an audit line about
        caller = self._registry.find(authorization.access_key_id)
        operation = request.headers.get("x-amz-target", "").removeprefix(_TARGET_PREFIX)
        call = Call(operation=operation, caller=caller, source_ip=source_ip, now_s=now_s)
        failure: KmsError | None = None
        try:
            if injected is not None:
                raise injected
            self._authenticate(authorization, caller, request, now_s)
            answer = self._run(call, request.body, request_id)
        except KmsError as error:
            failure = error
            answer = _refuse(error, request_id)
        self._write_audit(
            audit_line(
                call,
                request_id=request_id,
                region=self._region,
                user_agent=request.headers.get("user-agent", ""),
                error=failure,
            )
        )
        return answer

    def _authenticate(self, authorization: Authorization, caller: Caller, request: SignedRequest, now_s: float) -> None:
        if caller.secret_access_key is None:
            return
        if caller.session_token is not None and request.headers.get("x-amz-security-token") != caller.session_token:
            raise KmsError("UnrecognizedClientException", "The security token included in the request is invalid.")
        authorization.verify(request, caller.secret_access_key, region=self._region, now_s=now_s)

    def _run(self, call: Call, body: bytes, request_id: str) -> Answer:
        operation = self._operations.get(call.operation)
        if operation is None:
            raise KmsError("UnknownOperationException", "")
        result = operation(call, body)
        return Answer(_HTTP_OK, b"" if result is None else json.dumps(result).encode(), request_id)


def _taking(model: type[InputT], run: Callable[[Call, InputT], dict[str, Any] | None]) -> _Operation:
    def operation(call: Call, body: bytes) -> dict[str, Any] | None:
        return run(call, parse_input(model, body))

    return operation


def _refuse(error: KmsError, request_id: str) -> Answer:
    body = {"__type": error.code, "message": error.message}
    return Answer(error.http_status, json.dumps(body).encode(), request_id)
