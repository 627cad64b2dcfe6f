"""One line a call, with the names of CloudTrail's record of it. Never a plaintext, a blob or a document.

Source of the recipient's fields: KMS Developer Guide, "Monitoring requests for Nitro enclaves". PCRs are base64 there,
while policies have them in hexadecimal.
"""

import base64
import json
from datetime import UTC, datetime
from typing import Any, Final

from local.kms.call import Call
from local.kms.errors import KmsError
from local.kms.recipients import AttestedCaller

_LOGGED_PCRS: Final = (1, 2, 3, 4, 8)
_READ_ONLY: Final = frozenset(
    {
        "Decrypt",
        "DescribeKey",
        "Encrypt",
        "GenerateDataKey",
        "GenerateRandom",
        "GetKeyPolicy",
        "ListAliases",
        "ListKeys",
    }
)


def audit_line(call: Call, *, request_id: str, region: str, user_agent: str, error: KmsError | None) -> str:
    """Return the JSON of a call that is over."""
    parameters = dict(call.parameters)
    if call.encryption_context:
        parameters["encryptionContext"] = call.encryption_context
    event: dict[str, Any] = {
        "eventTime": datetime.fromtimestamp(call.now_s, tz=UTC).isoformat(timespec="milliseconds"),
        "eventSource": "kms.amazonaws.com",
        "eventName": call.operation,
        "awsRegion": region,
        "sourceIPAddress": call.source_ip,
        "userAgent": user_agent,
        "userIdentity": {
            "arn": call.caller.principal.arn,
            "accountId": call.caller.principal.account,
            "accessKeyId": call.caller.access_key_id,
        },
        "requestParameters": parameters,
        "requestID": request_id,
        "readOnly": call.operation in _READ_ONLY,
        "eventType": "AwsApiCall",
    }
    if call.key is not None:
        event["resources"] = [{"type": "AWS::KMS::Key", "ARN": call.key.arn}]
    if call.attested is not None:
        event["additionalEventData"] = {"recipient": _recipient(call.attested)}
    if error is not None:
        event |= {"errorCode": error.code.removesuffix("Exception"), "errorMessage": error.message}
    return json.dumps(event, separators=(",", ":"))


def _recipient(attested: AttestedCaller) -> dict[str, str]:
    fields = {
        "attestationDocumentModuleId": attested.module_id,
        "attestationDocumentEnclaveImageDigest": base64.b64encode(attested.pcrs[0]).decode(),
    }
    for index in _LOGGED_PCRS:
        if index in attested.pcrs:
            fields[f"attestationDocumentEnclavePCR{index}"] = base64.b64encode(attested.pcrs[index]).decode()
    return fields
