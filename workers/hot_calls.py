"""The few AWS calls that every job pays for, by a shorter way through the SDK's own client.

Two thirds of the CPU of an SDK call go into its generality: events, copies of contexts, models, and a signing key that
is derived anew each time. A `HotCallClient` is the SDK's client, with its credentials and their renewal, its choice of
endpoint, its connections, its time-outs and its exceptions; only these operations take fewer steps in between. What is
in any way unusual takes the SDK's steps: an endpoint with a path, a binary value, an answer that is not plainly good.
It makes one try: whoever opens a client for more gets the SDK's way for all of its calls.

The SDK's own hook for such classes is the event `creating-client-class` (boto3 guide, "Extensibility"). For these
operations it emits no events of single calls, such as `before-send`, and sends no headers `amz-sdk-*`.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import urlsplit

from aiobotocore.client import AioBaseClient
from aiobotocore.parsers import create_parser
from aiobotocore.session import AioSession
from botocore.awsrequest import AWSPreparedRequest

from protocol.clock import system_clock
from workers.sigv4 import Signer, SigningCredentials

HOT_OPERATIONS: Final = frozenset(
    {
        "BatchGetItem",
        "ChangeMessageVisibilityBatch",
        "DeleteMessageBatch",
        "ReceiveMessage",
        "SendMessageBatch",
    }
)
_ONE_ENDPOINT: Final = frozenset({"sqs"})
"""Whose rules for endpoints name nothing of a call; those of DynamoDB name the table and the account."""

_DEFAULT_PORTS: Final = {"https": ":443", "http": ":80"}
_FOR_THE_SDK: Final = (b"null", b'"BinaryValue"', b'"B"', b'"BS"')
"""In an answer: values that the SDK leaves out, and some that it decodes from Base64. In a text they only cost time."""

_SdkClient: Any = AioBaseClient
"""Its published types leave out what a subclass sees."""

_encode_json: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an operation's requests go, what each of them says, and how they are signed."""

    endpoint: str
    """As the SDK chose it."""
    url: str
    headers: Mapping[str, str]
    signer: Signer


def shorten_hot_calls(session: AioSession) -> None:
    """Have the session make such clients for SQS and DynamoDB from now on. Doing it again changes nothing."""
    for service in ("sqs", "dynamodb"):
        session.register(f"creating-client-class.{service}", _put_first, unique_id=f"nitro-signer-{service}")


def _put_first(base_classes: list[type], **_: object) -> None:
    base_classes.insert(0, HotCallClient)


class HotCallClient(_SdkClient):  # type: ignore[misc]  # as above
    """A client of SQS or DynamoDB. The SDK makes it, and what it offers is the SDK's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places: dict[str, _Place | None] = {}

    async def _make_api_call(self, operation_name: str, api_params: dict[str, Any]) -> Any:
        if operation_name in HOT_OPERATIONS and self.meta.config.retries.get("total_max_attempts") == 1:
            model = self.meta.service_model.operation_model(operation_name)
            place = await self._place_of(model, api_params)
            credentials = self._get_credentials()
            if place is not None and credentials is not None:
                return await self._call(model, place, await credentials.get_frozen_credentials(), api_params)
        return await super()._make_api_call(operation_name, api_params)

    async def _place_of(self, model: Any, api_params: dict[str, Any]) -> _Place | None:
        """Return where the SDK would send this; None when that, or how it would sign, is not the usual."""
        if model.name in self._places and model.service_model.service_name in _ONE_ENDPOINT:
            return self._places[model.name]
        context: dict[str, Any] = {"client_region": self.meta.region_name, "client_config": self.meta.config}
        url, headers, _ = await self._resolve_endpoint_ruleset(model, api_params, context)
        known = self._places.get(model.name)
        if known is None or known.endpoint != url:
            known = self._places[model.name] = None if headers else self._make_place(model, url, context)
        return known

    def _make_place(self, model: Any, endpoint: str, context: Mapping[str, Any]) -> _Place | None:
        parts, signer, service = urlsplit(endpoint), self._request_signer, model.service_model
        signature = context.get("auth_type") or signer.signature_version
        is_plain = parts.path in {"", "/"} and not parts.query and "@" not in parts.netloc
        if not is_plain or signature != "v4" or self.meta.config.auth_scheme_preference:
            return None
        scope = {"signing_name": signer.signing_name, "region": signer.region_name, **context.get("signing", {})}
        headers = {
            "content-type": f"application/x-amz-json-{model.metadata['jsonVersion']}",
            "host": parts.netloc.removesuffix(_DEFAULT_PORTS.get(parts.scheme, "")),
            "x-amz-target": f"{model.metadata['targetPrefix']}.{model.name}",
        }
        if service.is_query_compatible:
            headers["x-amzn-query-mode"] = "true"  # errors then have the codes that they always had
        url = f"{parts.scheme}://{parts.netloc}/"
        return _Place(endpoint, url, headers, Signer(scope["signing_name"], scope["region"]))

    async def _call(self, model: Any, place: _Place, credentials: Any, api_params: dict[str, Any]) -> Any:
        try:
            body = _encode_json(api_params).encode()
        except TypeError:  # it has bytes, or a time
            body = self._serializer.serialize_to_request(api_params, model)["body"]
        keys = SigningCredentials(credentials.access_key, credentials.secret_key, credentials.token or None)
        headers = place.signer.sign(place.headers, body, keys, system_clock())
        headers["user-agent"] = self._user_agent_creator.to_string()
        request: Any = AWSPreparedRequest("POST", place.url, cast("Any", headers), body, stream_output=False)
        answer = await self._endpoint.http_session.send(request)
        content = await answer.content
        if answer.status_code == HTTPStatus.OK and not any(mark in content for mark in _FOR_THE_SDK):
            with contextlib.suppress(ValueError):
                return json.loads(content)
        return await self._read(model, answer, content)

    async def _read(self, model: Any, answer: Any, content: bytes) -> Any:
        """Read an answer as the SDK does.

        Raises:
            ClientError: the service refused; the class and the code are those of the SDK.
        """
        facts = {"headers": answer.headers, "status_code": answer.status_code, "body": content, "context": {}}
        parsed = await create_parser(model.service_model.resolved_protocol).parse(facts, model.output_shape)
        if answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return parsed
        error = parsed.get("Error", {})
        kind: Any = self.exceptions.from_code(error.get("QueryErrorCode") or error.get("Code"))
        raise kind(parsed, model.name)
