"""A service in memory: queues that misbehave on request, and a parent that is honest unless a test says otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from enclave.keypair import KeyPair
from local.nitro_authority import NitroAuthority
from local.nitro_document import make_document
from protocol.birth import BirthCertificate, birth_user_data
from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.jobs import ErrorReply, GenerateJob, GenerateReply, Job, SignBatchJob, SignJob, SignReply, parse_job
from protocol.publickey import compressed, ethereum_address
from protocol.statement import KeyStatement, KmsKey
from tests.workers.queue.conftest import HOST, MemorySqs
from workers.client import BirthTrust, ClientSettings, SigningClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from types_aiobotocore_sqs import SQSClient

GENERATE, SIGN = f"{HOST}/generate", f"{HOST}/sign"
NOW_S = 1_790_000_000.0
PCR0 = bytes([7]) * 48
SEALED_SHA256 = hashlib.sha256(b"sealed").digest()


def _is_reply_queue(url: str) -> bool:
    return "/nitro-signer-reply-" in url


@dataclass(frozen=True)
class Hardware:
    """Signs documents of one image under one root."""

    authority: NitroAuthority
    pcr0: bytes = PCR0

    def certificate(self, userid: str, public_key: bytes) -> BirthCertificate:
        """Return the certificate of a birth in an enclave on this hardware."""
        kms_key = KmsKey(partition="aws", account="111122223333", key_id="1234abcd-12ab-34cd-56ef-1234567890ab")
        statement = KeyStatement(userid=userid, public_key=public_key, kms_key=kms_key).to_bytes()
        document = make_document(
            self.authority.issue_signer("i-0-enc0", now_s=NOW_S),
            module_id="i-0-enc0",
            time_s=NOW_S,
            pcrs=dict.fromkeys(range(16), self.pcr0),
            public_key=None,
            user_data=birth_user_data(statement, SEALED_SHA256),
            nonce=None,
        )
        return BirthCertificate(statement=statement, sealed_sha256=SEALED_SHA256, document=document)


@functools.cache
def authority(name: str) -> NitroAuthority:
    """Return a root per name."""
    del name  # the cache knows it
    return NitroAuthority.create(now_s=NOW_S)


OURS, STRANGER = "ours", "stranger"


def key_of(userid: str) -> KeyPair:
    """Return the key that a user has in these tests."""
    return KeyPair(hashlib.sha256(b"double " + userid.encode()).digest())


def generated(job: GenerateJob, key: KeyPair | None = None, certificate: BirthCertificate | None = None) -> str:
    """Return the reply to a generate job; without more, the honest one."""
    public_key = (key or key_of(job.userid)).public_key
    born = certificate or Hardware(authority(OURS)).certificate(job.userid, public_key)
    return GenerateReply(
        job_id=job.job_id,
        userid=job.userid,
        publickey=public_key.hex(),
        publickey_compressed=compressed(public_key).hex(),
        ethereum_address=ethereum_address(public_key),
        created=True,
        birth_certificate=born.to_base64(),
    ).model_dump_json()


def signed(job: SignJob, key: KeyPair | None = None, message: bytes | None = None) -> str:
    """Return the reply to a sign job; without more, the honest one."""
    signer = key or key_of(job.userid)
    digest = digest_of(job.message_bytes if message is None else message, job.digest)
    return SignReply(
        job_id=job.job_id,
        userid=job.userid,
        signature=signer.sign(digest, job.scheme, job.format).hex(),
        publickey=signer.public_key.hex(),
    ).model_dump_json()


def honest(job: Job) -> str:
    """Return the honest reply to any job that the client sends."""
    assert not isinstance(job, SignBatchJob)
    return generated(job) if isinstance(job, GenerateJob) else signed(job)


def failed(job: Job, code: ErrorCode) -> str:
    """Return an error reply."""
    return ErrorReply.of(job.type, job.job_id, job.userid, SignerError(code)).model_dump_json()


class Service(MemorySqs):
    """The queues, and who answers: `answer` is given each job and returns the bodies to reply with.

    Attributes:
        answer: the parent's doing.
        keeps_back: replies wait for `release`.
        kept_back: those that wait: queue and body.
        jobs: as they came.
        made: queues that were made here, and not removed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answer: Callable[[Job], Sequence[str]] = lambda job: [honest(job)]
        self.jobs: list[Job] = []
        self.made: list[str] = []
        self.queues = {GENERATE: [], SIGN: []}
        self.kept_back: list[tuple[str, str]] = []
        self.keeps_back = False

    async def create_queue(self, **request: Any) -> dict[str, str]:
        """Make a queue."""
        fault = self._begin("create_queue", request["QueueName"], ())
        self._refuse(fault)
        url = f"{HOST}/{request['QueueName']}"
        self.queues[url] = []
        self.made.append(url)
        return {"QueueUrl": url}

    async def delete_queue(self, **request: Any) -> None:
        """Remove one."""
        self._refuse(self._begin("delete_queue", request["QueueUrl"], ()))
        del self.queues[request["QueueUrl"]]
        self.made.remove(request["QueueUrl"])

    def put(self, url: str, body: str, *, message_id: str | None = None, group: str | None = None, **more: Any) -> None:
        """Put a message on a queue; jobs are answered at once."""
        super().put(url, body, message_id=message_id, group=group, **more)
        if not _is_reply_queue(url):
            job = parse_job(body, message_id or "m")
            self.jobs.append(job)
            for answer in self.answer(job):
                self.reply(job.reply_to or "", answer)

    def reply(self, url: str, body: str) -> None:
        """Put a body on a reply queue, or keep it back for `release`."""
        if self.keeps_back:
            self.kept_back.append((url, body))
        elif url in self.queues:  # else the client has gone, and its queue with it
            self.put(url, body, message_id=f"reply-{len(self.calls)}-{len(self.queues[url])}")

    def release(self, order: Callable[[list[tuple[str, str]]], list[tuple[str, str]]] = list) -> None:
        """Send what was kept back, in this order."""
        self.keeps_back = False
        kept, self.kept_back = self.kept_back, []
        for url, body in order(kept):
            self.reply(url, body)

    @contextlib.asynccontextmanager
    async def connect(self, settings: ClientSettings) -> AsyncGenerator[SQSClient, None]:
        """Stand where the SDK's client would."""
        del settings
        yield cast("SQSClient", self)

    def client(self, **changes: Any) -> SigningClient:
        """Return a client of this service."""
        return SigningClient(settings(**changes), connect=self.connect)


def settings(**changes: Any) -> ClientSettings:
    """Return settings that trust our own hardware and nothing else."""
    trust = BirthTrust(root=authority(OURS).trust_root, generator_pcr0=frozenset({PCR0}))
    fields = {"region": "eu-west-1", "generate_queue_url": GENERATE, "sign_queue_url": SIGN, "trust": trust}
    return ClientSettings.model_validate({**fields, **changes})


async def until(holds: Callable[[], bool]) -> None:
    """Let virtual time pass until something holds; it must within a virtual day."""
    async with asyncio.timeout(86_400):
        while not holds():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)


def edited(body: str, **fields: object) -> str:
    """Return a body with other fields."""
    return json.dumps({**json.loads(body), **fields})
