"""Queues and tables: there, reachable with these credentials, and set up so that nothing is lost."""

import json
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import BotoCoreError, ClientError

from config.engine import EngineSettings
from config.worker import StoreSettings
from protocol.cbor import is_map
from protocol.clock import Clock
from workers.doctor.finding import Finding, Grade
from workers.queue.sqs import queue_name

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_sqs import SQSClient

MAX_CLOCK_OFFSET_S: Final = 5.0
"""The date of an answer has whole seconds and was written a round trip ago. AWS refuses signatures 300 s off."""

_RETENTION_S: Final = 86_400
"""Jobs that nobody takes over a day's outage should still be there."""


async def check_queues(sqs: "SQSClient", role: str, engine: EngineSettings, clock: Clock) -> list[Finding]:
    """Look at the queue of jobs, its dead-letter queue, the reply queue, and the clock by the date of an answer."""
    findings: list[Finding] = []
    urls = {f"{role} queue": engine.queue_url, f"{role} reply queue": engine.reply_queue_url}
    if engine.dead_letter_queue_url is None:
        check = f"{role} dead-letter queue"
        findings.append(Finding(check, Grade.WARN, "none is set", "set dead_letter_queue_url"))
    else:
        urls[f"{role} dead-letter queue"] = engine.dead_letter_queue_url
    for check, url in urls.items():
        try:
            answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        except (BotoCoreError, ClientError, OSError) as error:
            findings.append(_unreachable(check, queue_name(url), error, "sqs:GetQueueAttributes"))
            continue
        attributes = cast("Mapping[str, str]", answer.get("Attributes", {}))
        findings += _judge_queue(check, queue_name(url), attributes)
        if url == engine.queue_url:
            findings += [*_judge_jobs(check, attributes, engine), _judge_clock(answer, clock)]
    return findings


def _judge_queue(check: str, name: str, attributes: Mapping[str, str]) -> list[Finding]:
    findings: list[Finding] = []
    if attributes.get("SqsManagedSseEnabled", "false") != "true" and not attributes.get("KmsMasterKeyId"):
        findings.append(Finding(check, Grade.WARN, f"{name} is not encrypted", "set SqsManagedSseEnabled"))
    retention_s = int(attributes.get("MessageRetentionPeriod", "0"))
    if retention_s < _RETENTION_S:
        text = f"{name} keeps messages for {retention_s} s"
        findings.append(Finding(check, Grade.WARN, text, "set MessageRetentionPeriod to days"))
    waiting = attributes.get("ApproximateNumberOfMessages", "?")
    if "dead-letter" in check and waiting not in {"0", "?"}:
        findings.append(Finding(check, Grade.WARN, f"{waiting} messages lie there", "docs/runbook.md, Redrive"))
    return findings or [Finding(check, Grade.OK, f"{name}, {waiting} waiting")]


def _judge_jobs(check: str, attributes: Mapping[str, str], engine: EngineSettings) -> list[Finding]:
    findings: list[Finding] = []
    redrive = _redrive(attributes.get("RedrivePolicy", ""))
    receives = int(redrive.get("maxReceiveCount", 0))
    if not receives:
        text = "no redrive policy: a job that ends its worker comes again for ever"
        findings.append(Finding(f"{check} redrive", Grade.FAIL, text, "set RedrivePolicy"))
    elif receives <= engine.max_receive_count:
        text = f"maxReceiveCount {receives} is not above the worker's max_receive_count {engine.max_receive_count}"
        fix = "raise it: otherwise SQS sets jobs aside without a reason or reply"
        findings.append(Finding(f"{check} redrive", Grade.FAIL, text, fix))
    elif engine.dead_letter_queue_url and not str(redrive.get("deadLetterTargetArn")).endswith(
        f":{queue_name(engine.dead_letter_queue_url)}"
    ):
        text = "SQS sets jobs aside in another queue than the worker"
        findings.append(Finding(f"{check} redrive", Grade.WARN, text, "use one dead-letter queue for both"))
    else:
        findings.append(Finding(f"{check} redrive", Grade.OK, f"after {receives} receives"))
    visibility = int(attributes.get("VisibilityTimeout", "0"))
    is_same = visibility == engine.visibility_timeout_s
    text = f"{visibility} s" + ("" if is_same else f"; workers ask for {engine.visibility_timeout_s} s themselves")
    findings.append(Finding(f"{check} visibility", Grade.OK, text))
    return findings


def _redrive(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if is_map(value) else {}


def _judge_clock(answer: Any, clock: Clock) -> Finding:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        return Finding("clock", Grade.WARN, "SQS did not say what time it is", "compare it yourself: chronyc tracking")
    offset_s = clock() - parsedate_to_datetime(date).astimezone(UTC).timestamp()
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        fix = "chronyc tracking; AWS refuses requests that are 5 minutes off"
        return Finding("clock", Grade.FAIL, f"{offset_s:+.0f} s off that of SQS", fix)
    return Finding("clock", Grade.OK, "that of SQS, to some seconds")


async def check_tables(dynamodb: "DynamoDBClient", store: StoreSettings, *, with_births: bool) -> list[Finding]:
    """Look at the key table and, where births are written, at theirs."""
    tables = {"key table": (store.table, "userid")}
    if with_births:
        tables["birth table"] = (store.birth_table, "publickey")
    findings: list[Finding] = []
    for check, (name, key) in tables.items():
        try:
            table: Mapping[str, Any] = (await dynamodb.describe_table(TableName=name)).get("Table", {})
        except (BotoCoreError, ClientError, OSError) as error:
            findings.append(_unreachable(check, name, error, "dynamodb:DescribeTable"))
            continue
        keys = [part["AttributeName"] for part in table.get("KeySchema", ())]
        if keys != [key]:
            findings.append(Finding(check, Grade.FAIL, f"{name} has the key {keys}", f"a table with the key {key}"))
        elif table.get("TableStatus") != "ACTIVE":
            findings.append(Finding(check, Grade.FAIL, f"{name} is {table.get('TableStatus')}", "wait, or restore it"))
        elif not table.get("DeletionProtectionEnabled"):
            fix = "turn on deletion protection: every key is in it"
            findings.append(Finding(check, Grade.WARN, f"{name} can be deleted by one call", fix))
        else:
            findings.append(Finding(check, Grade.OK, name))
    return findings


def _unreachable(check: str, name: str, error: Exception, action: str) -> Finding:
    if not isinstance(error, ClientError):
        return Finding(check, Grade.FAIL, f"{name}: {type(error).__name__}", "Region, endpoint or network")
    code = str(error.response.get("Error", {}).get("Code"))
    fix = f"the role needs {action}" if "Denied" in code else "compare the settings with the stack's outputs"
    return Finding(check, Grade.FAIL, f"{name}: {code}", fix)
