"""HTTP to KMS, bounded: no redirect is followed, and no answer is read that is longer than KMS makes one.

TLS already says that KMS speaks. This is for the day on which it says something else: a redirect could lead a signed
request out of the TLS session, and what KMS answers is read into memory that is locked.
"""

from typing import Any, Final

from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientPayloadError, ClientResponse, ClientSession

MAX_ANSWER_BYTES: Final = 64 * 1024
"""GenerateRandom of 1,024 bytes makes about 2 KB, Decrypt about 1 KB; AWS's error texts have a few hundred bytes."""


class KmsHttpSession(AIOHTTPSession):
    """For aiobotocore's `http_session_cls`."""

    async def _get_session(self, proxy_url: str | None) -> "_OneHop":
        return _OneHop(await super()._get_session(proxy_url))  # type: ignore[misc]  # the stubs leave it out


class _OneHop:
    """The one method of an aiohttp session that aiobotocore calls."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> "_BoundedAnswer":
        return _BoundedAnswer(await self._session.request(method, allow_redirects=False, **options))


class _BoundedAnswer:
    """What aiobotocore asks of an aiohttp response."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self.url = response.url
        self.status = response.status
        self.raw_headers = response.raw_headers

    async def read(self) -> bytes:
        """Return the body.

        Raises:
            ClientPayloadError: it is longer than the limit; the connection is closed.
        """
        async with self._response:
            body = bytearray()
            async for chunk in self._response.content.iter_any():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    self._response.close()  # or the connection would be read to its end, to be used again
                    raise ClientPayloadError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        return bytes(body)
