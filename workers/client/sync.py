"""`SyncSigningClient`: the same client for scripts without an event loop. It runs in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from protocol.messages import Digest, Scheme, SignatureFormat
from workers.client.client import SigningClient
from workers.client.settings import ClientSettings
from workers.client.values import PublicKey, Signature, SignRequest, SignResult

Result = TypeVar("Result")


class SyncSigningClient:
    """Waits for each answer; the methods are those of `SigningClient`, and so are their errors.

        with SyncSigningClient(settings) as client:
            key = client.generate("u001")

    May be used from several threads at once. To have many signatures made quickly, use `sign_many`.
    """

    def __init__(
        self, settings: ClientSettings, *, make: Callable[[ClientSettings], SigningClient] = SigningClient
    ) -> None:
        self._client = make(settings)
        self._thread = threading.Thread(target=self._run, name="signing-client", daemon=True)
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop, leave = self._started.result()
        loop.call_soon_threadsafe(leave.set)
        self._thread.join()

    def pin(self, userid: str, public_key: bytes) -> PublicKey:
        """See `SigningClient.pin`."""
        return self._client.pin(userid, public_key)

    def generate(self, userid: str, *, deadline_s: float | None = None) -> PublicKey:
        """See `SigningClient.generate`."""
        return self._do(self._client.generate(userid, deadline_s=deadline_s))

    def sign(
        self,
        userid: str,
        message: bytes | str,
        *,
        digest: Digest = Digest.SHA256,
        scheme: Scheme = Scheme.ECDSA,
        format: SignatureFormat = SignatureFormat.COMPACT,  # noqa: A002 - the name of the field in the job
        deadline_s: float | None = None,
    ) -> Signature:
        """See `SigningClient.sign`."""
        return self._do(
            self._client.sign(userid, message, digest=digest, scheme=scheme, format=format, deadline_s=deadline_s)
        )

    def sign_many(self, requests: Iterable[SignRequest]) -> Generator[SignResult, None, None]:
        """See `SigningClient.sign_many`. The iterable is read in the client's thread."""
        results = self._client.sign_many(requests)
        try:
            while True:
                try:
                    yield self._do(anext(results))
                except StopAsyncIteration:
                    return
        finally:
            self._do(results.aclose())

    def _do(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the client's thread; an interrupted wait cancels it."""
        loop, _ = self._started.result()
        running = asyncio.run_coroutine_threadsafe(call, loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        leave = asyncio.Event()
        async with self._client:
            self._started.set_result((asyncio.get_running_loop(), leave))
            await leave.wait()
