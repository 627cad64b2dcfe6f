"""The short way of the hot calls and the SDK's own way are the same to AWS and to the caller.

Each test runs against a server on loopback that keeps what it is sent and answers what it is told to.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from workers.aws import USER_AGENT, client_config, dynamodb_client, sqs_client
from workers.hot_calls import HOT_OPERATIONS, HotCallClient

QUEUE = "https://sqs.eu-west-1.amazonaws.com/111122223333/sign"
REQUESTS: dict[str, dict[str, Any]] = {
    "ReceiveMessage": {
        "QueueUrl": QUEUE,
        "MaxNumberOfMessages": 10,
        "WaitTimeSeconds": 20,
        "VisibilityTimeout": 60,
        "MessageSystemAttributeNames": ("ApproximateReceiveCount",),
        "MessageAttributeNames": ("All",),
    },
    "SendMessageBatch": {
        "QueueUrl": QUEUE,
        "Entries": [
            {"Id": "0", "MessageBody": "schön \ud83d\ude00 \x7f"},
            {
                "Id": "1",
                "MessageBody": "b",
                "MessageAttributes": {"raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}},
                "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
            },
        ],
    },
    "DeleteMessageBatch": {"QueueUrl": QUEUE, "Entries": [{"Id": "0", "ReceiptHandle": "h"}]},
    "ChangeMessageVisibilityBatch": {
        "QueueUrl": QUEUE,
        "Entries": [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": 0}],
    },
    "BatchGetItem": {"RequestItems": {"T": {"Keys": [{"userid": {"S": "u1"}}], "ConsistentRead": True}}},
}
MESSAGE = {
    "MessageId": "m",
    "ReceiptHandle": "h",
    "Body": '{"a": null}',
    "Attributes": {"ApproximateReceiveCount": "1"},
}
ANSWERS: list[tuple[str, int, dict[str, str], str]] = [
    ("ReceiveMessage", 200, {}, "{}"),
    ("ReceiveMessage", 200, {}, json.dumps({"Messages": [MESSAGE, {**MESSAGE, "Body": "ä"}]})),
    ("ReceiveMessage", 200, {}, json.dumps({"Messages": [{**MESSAGE, "Attributes": None, "Body": "b"}]})),
    (
        "ReceiveMessage",
        200,
        {},
        json.dumps(
            {"Messages": [{**MESSAGE, "MessageAttributes": {"raw": {"DataType": "Binary", "BinaryValue": "AP8="}}}]}
        ),
    ),
    ("SendMessageBatch", 200, {}, json.dumps({"Successful": [{"Id": "0", "MessageId": "m"}], "Failed": []})),
    (
        "SendMessageBatch",
        200,
        {},
        json.dumps({"Successful": None, "Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]}),
    ),
    (
        "BatchGetItem",
        200,
        {},
        json.dumps({"Responses": {"T": [{"userid": {"S": "u1"}, "n": {"N": "1"}}]}, "UnprocessedKeys": {}}),
    ),
    ("BatchGetItem", 200, {}, json.dumps({"Responses": {"T": [{"raw": {"B": "AP8="}, "set": {"BS": ["AP8="]}}]}})),
    ("ReceiveMessage", 200, {}, "no JSON"),
    ("ReceiveMessage", 200, {}, ""),
    (
        "ReceiveMessage",
        400,
        {"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"},
        json.dumps({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no such queue"}),
    ),
    (
        "DeleteMessageBatch",
        403,
        {"x-amzn-query-error": "RequestThrottled;Sender"},
        json.dumps({"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slowly"}),
    ),
    ("BatchGetItem", 400, {}, json.dumps({"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException"})),
    ("BatchGetItem", 400, {}, json.dumps({"__type": "ExpiredTokenException", "Message": "the token has expired"})),
    ("SendMessageBatch", 500, {}, "<html>oops</html>"),
    ("SendMessageBatch", 503, {}, ""),
]

SHORT, PLAIN = get_session(), get_session()
"""Kept over the tests, because a session keeps the SDK's models once it has read them."""


@dataclass
class Server:
    """Keeps requests, and answers each as it is told; an answer of None cuts the connection."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answer: tuple[int, Mapping[str, str], str] | None = (200, {}, "{}")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path_qs, headers, await request.read()))
        if self.answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, extra, text = self.answer
        return web.Response(
            status=status,
            text=text,
            content_type="application/x-amz-json-1.0",
            headers={"x-amzn-requestid": "r", **extra},
        )


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Server, None]:
    """A server that the clients of both services are led to."""
    running = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", running.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        running.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token/of+session=")
        yield running
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def short_client(operation: str, tries: int = 1, session: AioSession | None = None) -> AsyncGenerator[Any, None]:
    """Open a client as the workers do."""
    opened: Any = dynamodb_client if operation == "BatchGetItem" else sqs_client
    async with opened(session or SHORT, connections=4, read_timeout_s=5, tries=tries) as client:
        assert isinstance(client, HotCallClient)
        yield client


@contextlib.asynccontextmanager
async def sdk_client(operation: str) -> AsyncGenerator[Any, None]:
    """Open a client of the SDK with the same settings."""
    service = "dynamodb" if operation == "BatchGetItem" else "sqs"
    config = client_config(connections=4, read_timeout_s=5, tries=1)
    plain: Any = PLAIN
    async with plain.create_client(service, config=config) as client:
        assert not isinstance(client, HotCallClient)
        yield client


async def call(client: Any, operation: str) -> Any:
    """Make the call of `REQUESTS`; return the answer, or the kind of error and its code."""
    name = next(name for name, known in client._PY_TO_OP_NAME.items() if known == operation)
    try:
        answer = await getattr(client, name)(**REQUESTS[operation])
    except ClientError as error:
        return type(error).__name__, error.response["Error"]
    except BotoCoreError as error:
        return type(error).__name__
    answer.pop("ResponseMetadata", None)
    return answer


def is_sdk_made(headers: Mapping[str, str]) -> bool:
    """Tell by what only the SDK's own way sends."""
    return "amz-sdk-invocation-id" in headers


def expect_signed(request: tuple[str, dict[str, str], bytes], service: str) -> None:
    """Check the signature of a received request with the SDK's own parts."""
    path, headers, body = request
    authorization = headers["authorization"]
    shown = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    made = AWSRequest(
        "POST", f"http://{headers['host']}{path}", headers={name: headers[name] for name in shown}, data=body
    )
    made.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials("AKID", "secret", headers["x-amz-security-token"]), service, "eu-west-1")
    signature = signer.signature(signer.string_to_sign(made, signer.canonical_request(made)), made)
    assert authorization.endswith(f"Signature={signature}")
    assert {"host", "x-amz-date", "x-amz-security-token", "x-amz-target", "content-type"} <= set(shown)
    assert headers["x-amz-security-token"] == "token/of+session="


@pytest.mark.parametrize("operation", sorted(HOT_OPERATIONS))
async def test_same_request(server: Server, operation: str) -> None:
    """Both ways send the same thing to the same place under a good signature; only the SDK's tells of its tries."""
    async with short_client(operation) as client:
        await call(client, operation)
    async with sdk_client(operation) as client:
        await call(client, operation)
    short, sdk = server.requests
    assert (is_sdk_made(short[1]), is_sdk_made(sdk[1])) == (False, True)
    assert short[0] == sdk[0] == "/"
    assert json.loads(short[2]) == json.loads(sdk[2])
    for name in ("host", "x-amz-target", "content-type", "x-amzn-query-mode", "accept-encoding", "user-agent"):
        assert short[1].get(name) == sdk[1].get(name), name
    assert USER_AGENT in short[1]["user-agent"]
    for request in (short, sdk):
        expect_signed(request, "dynamodb" if operation == "BatchGetItem" else "sqs")


@pytest.mark.parametrize("service", ["sqs", "dynamodb"])
async def test_same_answer(server: Server, service: str) -> None:
    """Whatever AWS answers, the caller gets the same value, or the same kind of error with the same code."""
    is_dynamodb = service == "dynamodb"
    operation = "BatchGetItem" if is_dynamodb else "ReceiveMessage"
    answers = [answer for answer in ANSWERS if (answer[0] == "BatchGetItem") == is_dynamodb]
    async with sdk_client(operation) as sdk, short_client(operation) as short:
        for name, status, headers, text in answers:
            server.answer = (status, headers, text)
            assert await call(short, name) == await call(sdk, name), server.answer
    assert len(server.requests) == 2 * len(answers)


async def test_same_error_without_an_answer(server: Server) -> None:
    """A cut connection, and a server that is not there, are the SDK's own errors, after one try."""
    server.answer = None
    async with short_client("SendMessageBatch") as client:
        assert await call(client, "SendMessageBatch") == "ConnectionClosedError"
    assert len(server.requests) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        async with short_client("SendMessageBatch") as client:
            assert await call(client, "SendMessageBatch") == "EndpointConnectionError"


async def test_renewed_credentials_sign_the_next_call(server: Server) -> None:
    """The SDK's own credentials are asked each time, so that what it has renewed is used at once."""
    session = get_session()
    async with sqs_client(session, connections=4, read_timeout_s=5) as client:
        await call(client, "ReceiveMessage")
        credentials: Any = await session.get_credentials()
        credentials.access_key, credentials.secret_key, credentials.token = "AKID2", "secret2", "token2"
        await call(client, "ReceiveMessage")
    first, second = [headers for _, headers, _ in server.requests]
    assert "Credential=AKID/" in first["authorization"]
    assert "Credential=AKID2/" in second["authorization"]
    assert second["x-amz-security-token"] == "token2"


async def test_call_without_credentials_is_the_sdks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials nothing is sent, and the error is the SDK's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    async with short_client("ReceiveMessage", session=get_session()) as client:
        assert await call(client, "ReceiveMessage") == "NoCredentialsError"
    assert server.requests == []


def _with_a_path(server: Server, patch: pytest.MonkeyPatch) -> int:
    patch.setenv("AWS_ENDPOINT_URL", f"{server.url}/some/path")
    return 1


def _with_tries(_server: Server, _patch: pytest.MonkeyPatch) -> int:
    return 3


@pytest.mark.parametrize("make_unusual", [_with_a_path, _with_tries])
async def test_the_unusual_goes_the_sdks_way(
    server: Server, monkeypatch: pytest.MonkeyPatch, make_unusual: Callable[[Server, pytest.MonkeyPatch], int]
) -> None:
    """An endpoint with a path, and a client that tries again by itself, are left to the SDK."""
    tries = make_unusual(server, monkeypatch)
    async with short_client("ReceiveMessage", tries) as client:
        assert await call(client, "ReceiveMessage") == {}
    ((_, headers, _),) = server.requests
    assert is_sdk_made(headers)


async def test_other_operations_go_the_sdks_way(server: Server) -> None:
    """Only the listed operations are shortened."""
    server.answer = (200, {}, '{"QueueUrls": []}')
    async with short_client("ReceiveMessage") as client:
        assert (await client.list_queues())["QueueUrls"] == []
    ((_, headers, _),) = server.requests
    assert is_sdk_made(headers)


class SentError(Exception):
    """Ends a call where it would be sent."""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_ACCOUNT_ID": "111122223333"},
        {"AWS_DEFAULT_REGION": "cn-north-1"},
    ],
    ids=str,
)
async def test_same_endpoint(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Both ways go where the SDK's rules say, call by call, and sign for the same service and Region."""
    keys = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-west-1"}
    for name, value in {**keys, **variables}.items():
        monkeypatch.setenv(name, value)
    sent: list[tuple[str, str]] = []

    async def keep(_session: AIOHTTPSession, request: Any) -> None:
        lower = {name.lower(): value for name, value in request.headers.items()}
        authorization = lower["authorization"]
        text = authorization.decode() if isinstance(authorization, bytes) else authorization
        sent.append((request.url, text.partition("Credential=")[2].partition(",")[0]))
        raise SentError

    monkeypatch.setattr(AIOHTTPSession, "send", keep)
    tables = ["T", "arn:aws:dynamodb:eu-west-1:444455556666:table/T", "arn:aws:dynamodb:eu-west-1:777788889999:table/T"]

    async def go(opened: Any) -> list[tuple[str, str]]:
        sent.clear()
        async with opened as client:
            if client.meta.service_model.service_name == "dynamodb":
                for table in tables:
                    with contextlib.suppress(SentError):
                        await client.batch_get_item(RequestItems={table: {"Keys": [{"userid": {"S": "u"}}]}})
            else:
                for _ in tables:
                    with contextlib.suppress(SentError):
                        await client.receive_message(QueueUrl=QUEUE)
        return list(sent)

    openers: dict[str, Any] = {"sqs": sqs_client, "dynamodb": dynamodb_client}
    for service, opened in openers.items():
        short = await go(opened(get_session(), connections=4, read_timeout_s=5, tries=1))
        plain: Any = get_session()
        config = client_config(connections=4, read_timeout_s=5, tries=1)
        assert short == await go(plain.create_client(service, config=config))
        assert len(short) == len(tables)
