"""Queues and tables of a local stack, made as the deployment makes them: each queue with its dead-letter queue."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

KEY_TABLE: Final = "UserToken"
BIRTH_TABLE: Final = "UserTokenBirth"
FREEZE_TABLE: Final = "UserTokenFreeze"

_VISIBILITY_TIMEOUT_S: Final = 30
_NO_QUEUE: Final = ("NonExistentQueue", "QueueDoesNotExist")
"""AWS says `AWS.SimpleQueueService.NonExistentQueue`; a server without the old protocol says the other."""

_BACKSTOP_RECEIVE_COUNT: Final = 100
"""The worker dead-letters with a reason long before; this is for a worker that dies each time it meets a job."""


@dataclass(frozen=True, slots=True)
class QueueUrls:
    """The queues of a stack."""

    generate: str
    generate_dead_letter: str
    sign: str
    sign_dead_letter: str
    reply: str
    reply_dead_letter: str

    def to_dict(self) -> dict[str, str]:
        """Return names and URLs."""
        return asdict(self)


def error_code(error: ClientError) -> str:
    """Return the code of an AWS error."""
    return str(error.response.get("Error", {}).get("Code"))


async def make_queues(sqs: Any) -> QueueUrls:
    """Make what is missing; return the URLs as the server says them."""
    urls: dict[str, str] = {}
    for name in ("generate", "sign", "reply"):
        dead_letter = await _make_queue(sqs, f"nitro-signer-{name}-dlq", {})
        arn = (await sqs.get_queue_attributes(QueueUrl=dead_letter, AttributeNames=["QueueArn"]))["Attributes"][
            "QueueArn"
        ]
        redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": _BACKSTOP_RECEIVE_COUNT}
        urls[f"{name}_dead_letter"] = dead_letter
        urls[name] = await _make_queue(sqs, f"nitro-signer-{name}", {"RedrivePolicy": json.dumps(redrive)})
    return QueueUrls(**urls)


async def _make_queue(sqs: Any, name: str, attributes: dict[str, str]) -> str:
    try:
        return str((await sqs.get_queue_url(QueueName=name))["QueueUrl"])
    except ClientError as error:
        if not error_code(error).endswith(_NO_QUEUE):
            raise
    attributes = {"VisibilityTimeout": str(_VISIBILITY_TIMEOUT_S), **attributes}
    return str((await sqs.create_queue(QueueName=name, Attributes=attributes))["QueueUrl"])


async def make_tables(dynamodb: Any) -> None:
    """Make the key table, the table of birth certificates and that of the brakes, where they are missing."""
    for table, key in ((KEY_TABLE, "userid"), (BIRTH_TABLE, "publickey"), (FREEZE_TABLE, "userid")):
        try:
            await dynamodb.create_table(
                TableName=table,
                KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except ClientError as error:
            if error_code(error) != "ResourceInUseException":
                raise
