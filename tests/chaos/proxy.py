"""Stands between the workers and their SQS and DynamoDB, and does to requests what networks and services do.

It speaks the JSON protocols of both (`X-Amz-Target: SERVICE.OPERATION`), passes on what it does not change, and knows
of each put whether it was conditional.
"""

import asyncio
import contextlib
import json
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from local.stack_options import AwsEndpoints
from tests.chaos.faults import Fate, Fates, Fault

_LONGEST_DELAY_S: Final = 1.5
_REMEMBERED: Final = 50
_JSON: Final = "application/x-amz-json-1.0"
_THROTTLED: Final = {
    "AmazonSQS": "com.amazonaws.sqs#RequestThrottled",
    "DynamoDB": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON object."""
        fields: dict[str, Any] = json.loads(self.body)
        return fields


class _CutError(Exception):
    """The connection to the client ends here, without an answer."""


class FaultProxy:
    """Made once for a run.

    Attributes:
        fates: decides, and counts.
        puts: successful puts by table and key: more than one overwrote something.
        unconditional_puts: how many puts had no condition.
    """

    def __init__(self, fates: Fates) -> None:
        self.fates = fates
        self.puts: Counter[tuple[str, str]] = Counter()
        self.unconditional_puts = 0
        self._endpoints: AwsEndpoints
        self._session: ClientSession
        self._seen: dict[str, deque[dict[str, Any]]] = {}
        self._ways: dict[Fault, Callable[[web.Request, dict[str, Any], Fate], Awaitable[Answer]]] = {
            Fault.DELAY: self._delay,
            Fault.CUT: self._cut,
            Fault.LOST_ANSWER: self._lose_answer,
            Fault.THROTTLED: self._throttle,
            Fault.SERVER_ERROR: self._fail,
            Fault.FAILED_ENTRY: self._fail_entry,
            Fault.DONE_BUT_FAILED: self._fail_done_entry,
            Fault.EXPIRED_HANDLE: self._expire_handle,
            Fault.DUPLICATE: self._deliver_again,
            Fault.STALE_DUPLICATE: self._deliver_old,
            Fault.UNPROCESSED_KEYS: self._leave_key,
        }

    @contextlib.asynccontextmanager
    async def front(self, endpoints: AwsEndpoints) -> AsyncGenerator[AwsEndpoints, None]:
        """Listen on loopback (`local.stack_options.Front`)."""
        self._endpoints = endpoints
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        async with ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=60)) as self._session:
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                yield AwsEndpoints(url, url)
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        operation = _operation(request)
        fields: dict[str, Any] = json.loads(await request.read())
        fate = self.fates.next(operation)
        try:
            if fate.fault is None:
                answer = await self._pass_on(request, fields)
            else:
                answer = await self._ways[fate.fault](request, fields, fate)
        except (_CutError, ClientError, OSError):  # the server itself may be away: it is being restarted
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": _JSON})

    async def _pass_on(self, request: web.Request, fields: dict[str, Any]) -> Answer:
        service, operation = _service(request), _operation(request)
        url = self._endpoints.sqs_url if service == "AmazonSQS" else self._endpoints.dynamodb_url
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in {"host", "content-length", "expect", "accept-encoding"}
        }
        async with self._session.post(url + request.path_qs, data=json.dumps(fields), headers=headers) as response:
            answer = Answer(response.status, await response.read())
        if answer.status == web.HTTPOk.status_code:
            if operation == "PutItem":
                self._note_put(fields)
            elif operation == "ReceiveMessage":
                self._remember(fields, answer)
        return answer

    def _note_put(self, fields: dict[str, Any]) -> None:
        self.unconditional_puts += "ConditionExpression" not in fields
        item = fields["Item"]
        key = item.get("userid") if fields["TableName"] == "UserToken" else item.get("publickey")
        self.puts[fields["TableName"], key["S"]] += 1

    def _remember(self, fields: dict[str, Any], answer: Answer) -> None:
        kept = self._seen.setdefault(fields["QueueUrl"], deque(maxlen=_REMEMBERED))
        kept.extend(answer.fields.get("Messages") or ())

    # The whole request

    async def _delay(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        self._count(fate)
        await asyncio.sleep(fate.number * _LONGEST_DELAY_S)
        return await self._pass_on(request, fields)

    async def _cut(self, _request: web.Request, _fields: dict[str, Any], fate: Fate) -> Answer:
        self._count(fate)
        raise _CutError

    async def _lose_answer(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        await self._pass_on(request, fields)
        self._count(fate)
        raise _CutError

    async def _throttle(self, request: web.Request, _fields: dict[str, Any], fate: Fate) -> Answer:
        self._count(fate)
        return Answer(400, json.dumps({"__type": _THROTTLED[_service(request)], "message": "throttled"}).encode())

    async def _fail(self, _request: web.Request, _fields: dict[str, Any], fate: Fate) -> Answer:
        self._count(fate)
        return Answer(503, json.dumps({"__type": "ServiceUnavailable", "message": "not now"}).encode())

    # One entry of a batch

    async def _fail_entry(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        problem = {"Code": "InternalError", "SenderFault": False, "Message": "not done"}
        return await self._without_one(request, fields, fate, problem)

    async def _expire_handle(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        problem = {"Code": "ReceiptHandleIsInvalid", "SenderFault": True, "Message": "expired"}
        return await self._without_one(request, fields, fate, problem)

    async def _without_one(
        self, request: web.Request, fields: dict[str, Any], fate: Fate, problem: dict[str, Any]
    ) -> Answer:
        entries = list(fields["Entries"])
        hit = entries.pop(fate.pick(len(entries)))
        answer = await self._pass_on(request, {**fields, "Entries": entries}) if entries else Answer(200, b"{}")
        return self._with_failed(answer, hit["Id"], problem, fate)

    async def _fail_done_entry(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        hit = fields["Entries"][fate.pick(len(fields["Entries"]))]
        problem = {"Code": "InternalError", "SenderFault": False, "Message": "done all the same"}
        return self._with_failed(await self._pass_on(request, fields), hit["Id"], problem, fate)

    def _with_failed(self, answer: Answer, entry_id: str, problem: dict[str, Any], fate: Fate) -> Answer:
        if answer.status != web.HTTPOk.status_code:
            return answer
        said = answer.fields
        said["Successful"] = [entry for entry in said.get("Successful", ()) if entry["Id"] != entry_id]
        others = [entry for entry in said.get("Failed", ()) if entry["Id"] != entry_id]
        said["Failed"] = [*others, {"Id": entry_id, **problem}]
        self._count(fate)
        return Answer(200, json.dumps(said).encode())

    # Deliveries and reads

    async def _deliver_again(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        """Make a message that is on its way visible again: the next receive brings it once more."""
        answer = await self._pass_on(request, fields)
        messages = (answer.fields.get("Messages") or ()) if answer.status == web.HTTPOk.status_code else ()
        if messages:
            hit = messages[fate.pick(len(messages))]
            change = {"QueueUrl": fields["QueueUrl"], "ReceiptHandle": hit["ReceiptHandle"], "VisibilityTimeout": 0}
            headers = {"Content-Type": _JSON, "X-Amz-Target": "AmazonSQS.ChangeMessageVisibility"}
            headers["Authorization"] = request.headers.get("Authorization", "")
            async with self._session.post(self._endpoints.sqs_url, data=json.dumps(change), headers=headers) as done:
                await done.read()
            self._count(fate)
        return answer

    async def _deliver_old(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        """Bring an old message once more, whatever has become of it, with the receipt handle that it had."""
        old = list(self._seen.get(fields["QueueUrl"], ()))
        answer = await self._pass_on(request, fields)
        if answer.status != web.HTTPOk.status_code:
            return answer
        said = answer.fields
        messages = list(said.get("Messages") or ())
        if old and len(messages) < fields["MaxNumberOfMessages"]:
            said["Messages"] = [*messages, old[fate.pick(len(old))]]
            self._count(fate)
        return Answer(200, json.dumps(said).encode())

    async def _leave_key(self, request: web.Request, fields: dict[str, Any], fate: Fate) -> Answer:
        """Leave one key of a batch read unread, and say so."""
        table, wanted = next(iter(fields["RequestItems"].items()))
        keys = list(wanted["Keys"])
        left = keys.pop(fate.pick(len(keys)))
        said: dict[str, Any] = {"Responses": {table: []}}
        if keys:
            answer = await self._pass_on(request, {**fields, "RequestItems": {table: {**wanted, "Keys": keys}}})
            if answer.status != web.HTTPOk.status_code:
                return answer
            said = answer.fields
        said["UnprocessedKeys"] = {table: {**wanted, "Keys": [left]}}
        self._count(fate)
        return Answer(200, json.dumps(said).encode())

    def _count(self, fate: Fate) -> None:
        if fate.fault is not None:
            self.fates.counts[fate.fault] += 1


def _service(request: web.Request) -> str:
    return request.headers["X-Amz-Target"].split(".")[0].split("_")[0]


def _operation(request: web.Request) -> str:
    return request.headers["X-Amz-Target"].rsplit(".", 1)[-1]
