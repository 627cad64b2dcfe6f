"""`SigningClient`: keys and signatures as plain calls, over the queues of the service."""

import asyncio
import base64
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError
from pydantic import ValidationError

from protocol.errors import ErrorCode
from protocol.jobs import GenerateJob, Job, MessageEncoding, Reply, SignJob
from protocol.messages import Digest, Scheme, SignatureFormat
from protocol.model import describe_validation_error
from workers.aws import sqs_client
from workers.client.answers import born_key, proven_signature
from workers.client.desk import ReplyDesk
from workers.client.errors import BadRequestError, NoAnswerError, SigningError
from workers.client.mailbox import Mailbox
from workers.client.reply_queue import own_reply_queue
from workers.client.settings import ClientSettings, check_pinned
from workers.client.values import PublicKey, Signature, SignRequest, SignResult

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

    Connect: TypeAlias = Callable[[ClientSettings], AbstractAsyncContextManager[SQSClient]]

_JOB_ID_BYTES: Final = 16
_NAME_BYTES: Final = 6
_SENDS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class ClientStats:
    """What a client has met so far."""

    sent: int
    """Jobs that a queue has accepted."""
    in_flight: int
    """Calls that wait for their reply."""
    answered: int
    """Replies that a call was waiting for, whatever they said."""
    late: int
    """Replies to jobs of this client that no call was waiting for any more: too late, or delivered twice. Dropped."""
    foreign: int
    """Replies to jobs that are not of this client: somebody else writes to its queue. Dropped."""
    malformed: int
    """Messages on the reply queue that are no reply. They are dropped."""


class SigningClient:
    """Asks the service for keys and signatures, and returns only what it has verified itself.

        async with SigningClient(settings) as client:
            key = await client.generate("u001")
            signature = await client.sign("u001", b"Hello World")

    Any number of calls may run at once; each gets its own answer. A call ends by its deadline, may be cancelled at any
    time, and a reply that comes too late is dropped. Keys that were verified stay in memory: about 1 KB each.

    Args:
        settings: see `ClientSettings`.
        connect: opens the client of SQS; by default as AWS's own tools do, from profile, variables or instance role.
    """

    def __init__(self, settings: ClientSettings, *, connect: "Connect | None" = None) -> None:
        self._settings = settings
        self._connect = connect or connect_sqs
        self._keys = {userid: PublicKey(userid, xy) for userid, xy in settings.pinned_keys.items()}
        self._name = secrets.token_urlsafe(_NAME_BYTES)
        self._desk = ReplyDesk(self._name)
        self._places = asyncio.Semaphore(settings.max_in_flight)
        self._stack = contextlib.AsyncExitStack()
        self._open: _Open | None = None
        self._sent = 0

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            sqs = await stack.enter_async_context(self._connect(settings))
            reply_queue_url = await stack.enter_async_context(own_reply_queue(sqs, settings))
            group = await stack.enter_async_context(_side_tasks())
            mailbox = Mailbox(sqs, settings, reply_queue_url, self._desk, group)
            for _ in range(settings.pollers):
                stack.callback(group.create_task(mailbox.run_poller(), name="reply poller").cancel)
            stack.callback(self._close)
            self._open = _Open(mailbox, group, reply_queue_url)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def _close(self) -> None:
        self._open = None
        self._desk.give_up(NoAnswerError(ErrorCode.QUEUE_UNAVAILABLE, "the client was closed"))

    @property
    def stats(self) -> ClientStats:
        """What this client has met so far."""
        desk = self._desk
        return ClientStats(self._sent, desk.waiting, desk.answered, desk.late, desk.foreign, desk.malformed)

    def pin(self, userid: str, public_key: bytes) -> PublicKey:
        """Trust a public key (x || y, 64 bytes) that is known from elsewhere, as from `key verify`.

        Raises:
            ValueError: not a public key, or another one is trusted for this user id already.
        """
        check_pinned(userid, public_key)
        known = self._keys.get(userid)
        if known is not None and known.xy != public_key:
            raise ValueError(f"another key is trusted for {userid} already")
        return self._keys.setdefault(userid, PublicKey(userid, public_key))

    async def generate(self, userid: str, *, deadline_s: float | None = None) -> PublicKey:
        """Have a key made for a user id, or get the one that it has; return it once its birth is verified.

        What the certificate proves: an image of `settings.trust` made exactly this key and sealed it. That the parent
        has not had a second key made for the same user id, it cannot prove: keep the first.

        Raises:
            AnswerRefusedError: `birth_refused`, or another key than the one that is trusted already.
            JobFailedError: the service has refused or failed.
            NoAnswerError: nothing came within `deadline_s` (by default that of the settings).
            BadRequestError: the user id is none, or the settings have no `trust`.
        """
        trust = self._settings.trust
        if trust is None:
            raise BadRequestError(ErrorCode.BAD_REQUEST, "to generate, settings.trust must say whose word is taken")
        reply_to = self._opened.reply_queue_url
        with _bad_request():
            job = GenerateJob(type="generate", job_id=self._new_job_id(), userid=userid, reply_to=reply_to)
        reply = await self._ask(job, deadline_s)
        key = self._keys[userid] = born_key(job, reply, trust, self._keys.get(userid))
        return key

    async def sign(
        self,
        userid: str,
        message: bytes | str,
        *,
        digest: Digest = Digest.SHA256,
        scheme: Scheme = Scheme.ECDSA,
        format: SignatureFormat = SignatureFormat.COMPACT,  # noqa: A002 - the name of the field in the job
        deadline_s: float | None = None,
    ) -> Signature:
        """Have a message signed; return the signature once it is verified with the key that is trusted here.

        Args:
            userid: whose key. `generate` must have returned it before, or `pin` or the settings named it.
            message: at most 64 KiB; text is signed as its UTF-8 bytes. With digest `none`, the 32-byte digest.
            digest: how the message becomes 32 bytes.
            scheme: ECDSA, or Schnorr (BIP-340).
            format: how the signature is written.
            deadline_s: by default that of the settings.

        Raises:
            AnswerRefusedError: `signature_refused`: somebody has answered with a signature that does not verify.
            JobFailedError: the service has refused or failed.
            NoAnswerError: nothing came in time.
            BadRequestError: such a job does not exist, or no key is trusted for this user id.
        """
        key = self._keys.get(userid)
        if key is None:
            raise BadRequestError(ErrorCode.BAD_REQUEST, f"no key is trusted for {userid} yet: generate it, or pin it")
        text, encoding = (message, MessageEncoding.UTF8) if isinstance(message, str) else _base64(message)
        with _bad_request():
            job = SignJob(
                type="sign",
                job_id=self._new_job_id(),
                userid=userid,
                message=text,
                encoding=encoding,
                digest=digest,
                scheme=scheme,
                format=format,
                reply_to=self._opened.reply_queue_url,
            )
        return proven_signature(job, await self._ask(job, deadline_s), key)

    async def sign_many(self, requests: Iterable[SignRequest]) -> AsyncGenerator[SignResult, None]:
        """Yield what becomes of each request, in their order. One that fails does not stop the others.

        Requests are taken from the iterable only as fast as results are: at most `max_in_flight` ahead. Close the
        generator (`contextlib.aclosing`) to leave early; what is under way is then cancelled.
        """
        ahead: deque[asyncio.Task[SignResult]] = deque()
        try:
            for request in requests:
                if len(ahead) == self._settings.max_in_flight:
                    yield await ahead.popleft()
                ahead.append(self._opened.group.create_task(self._result(request), name="sign"))
            while ahead:
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()

    async def _result(self, request: SignRequest) -> SignResult:
        try:
            outcome: Signature | SigningError = await self.sign(
                request.userid, request.message, digest=request.digest, scheme=request.scheme, format=request.format
            )
        except SigningError as error:
            outcome = error
        return SignResult(request, outcome)

    async def _ask(self, job: Job, deadline_s: float | None) -> Reply:
        """Send a job and return its reply, which nothing is known of but its job id."""
        mailbox = self._opened.mailbox
        limit_s = self._settings.deadline_s if deadline_s is None else deadline_s
        try:
            async with asyncio.timeout(limit_s), self._places:
                with self._desk.expect(job.job_id) as answer:
                    await mailbox.send(job)
                    self._sent += 1
                    return await answer
        except TimeoutError as error:
            detail = f"no reply within {limit_s:g} s"
            if mailbox.trouble:
                detail += f" (receiving: {mailbox.trouble})"
            elif not self._desk.answered:
                detail += f" (none at all so far: do the workers run, and allow {self._opened.reply_queue_name}?)"
            raise NoAnswerError(ErrorCode.DEADLINE_EXCEEDED, detail, job_id=job.job_id) from error

    def _new_job_id(self) -> str:
        """Return an id that nobody who may only send to the reply queue can guess."""
        return f"{self._name}.{secrets.token_urlsafe(_JOB_ID_BYTES)}"

    @property
    def _opened(self) -> "_Open":
        if self._open is None:
            raise RuntimeError("a SigningClient works inside `async with` only")
        return self._open


@dataclass(frozen=True, slots=True)
class _Open:
    """What an open client works with."""

    mailbox: Mailbox
    group: asyncio.TaskGroup
    reply_queue_url: str

    @property
    def reply_queue_name(self) -> str:
        """The last part of the URL, without the account."""
        return self.reply_queue_url.rsplit("/", 1)[-1]


@contextlib.asynccontextmanager
async def connect_sqs(settings: ClientSettings) -> AsyncGenerator["SQSClient", None]:
    """Open a client of SQS with the credentials that AWS's own tools would use.

    Raises:
        NoAnswerError: `queue_unavailable`, the SDK's configuration cannot be used.
    """
    session = get_session()
    session.set_config_variable("region", settings.region)
    async with contextlib.AsyncExitStack() as stack:
        try:
            sqs = await stack.enter_async_context(
                sqs_client(
                    session,
                    connections=settings.pollers + _SENDS_AT_ONCE,
                    read_timeout_s=settings.wait_time_s + settings.call_timeout_s + 1,
                )
            )
        except BotoCoreError as error:
            raise NoAnswerError(ErrorCode.QUEUE_UNAVAILABLE, f"SQS cannot be used: {error}") from error
        yield sqs


@contextlib.asynccontextmanager
async def _side_tasks() -> AsyncGenerator[asyncio.TaskGroup, None]:
    """Give a task group that leaves an error of the caller's own code as it is, instead of wrapping it in a group."""
    group = asyncio.TaskGroup()
    await group.__aenter__()
    try:
        yield group
    finally:
        await group.__aexit__(None, None, None)


@contextlib.contextmanager
def _bad_request() -> Generator[None, None, None]:
    try:
        yield
    except ValidationError as error:
        raise BadRequestError(ErrorCode.BAD_REQUEST, describe_validation_error(error)) from error


def _base64(message: bytes) -> tuple[str, MessageEncoding]:
    return base64.b64encode(message).decode(), MessageEncoding.BASE64
