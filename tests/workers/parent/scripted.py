"""Enclaves and tables that do as a test says: real sockets and real signatures, no KMS and no AWS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from coincurve import PrivateKey

from config.worker import EnclaveClientSettings, StoreSettings
from enclave.keypair import KeyPair
from local.nitro_authority import NitroAuthority
from local.nitro_document import make_document
from protocol.birth import BirthCertificate, birth_user_data
from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from protocol.messages import (
    BadItem,
    EnclaveFacts,
    ErrorBody,
    Events,
    Generate,
    GeneratedKey,
    GenerateItem,
    GenerateItemResult,
    GenerateResult,
    Hello,
    HelloResult,
    Limits,
    NotReadyReason,
    Request,
    Result,
    Role,
    SealedRecord,
    SetCredentials,
    SetCredentialsResult,
    Sign,
    SignItem,
    SignItemResult,
    SignResult,
    Status,
    StatusResult,
)
from protocol.server import Server, ServerLimits
from protocol.statement import KeyStatement, KmsKey
from protocol.transport import listen
from workers.enclaves.credentials import NoCredentialsError
from workers.enclaves.pool import EnclavePool, open_enclave_pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from protocol.address import Address
    from workers.enclaves.calls import Operation
    from workers.enclaves.credentials import CredentialSource

LONG_S = 30.0
KMS_KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/6f1c1d52-0000-4000-8000-000000000001"
NOW_S = 1_790_000_000.0
CREDENTIALS = SetCredentials(
    access_key_id="ASIAEXAMPLE", secret_access_key="made-up", session_token="made-up", expires_at_s=2_000_000_000
)
QUICK = EnclaveClientSettings(check_interval_s=0.05, reconnect_cap_s=0.05, collect_ms=0, connect_timeout_s=5.0)


def private_key_of(userid: str) -> bytes:
    """Return the private key that this user has in these tests."""
    return hashlib.sha256(b"scripted " + userid.encode()).digest()


def sealed_record(userid: str, private_key: bytes | None = None, kms_key_arn: str = KMS_KEY_ARN) -> SealedRecord:
    """Return a record whose statement is right; its sealed parts are not real, and nobody here opens them."""
    key = PrivateKey(private_key or private_key_of(userid))
    statement = KeyStatement(
        userid=userid,
        public_key=key.public_key.format(compressed=False)[1:],
        kms_key=KmsKey.from_arn(kms_key_arn),
    )
    return SealedRecord(statement=statement.to_bytes(), sealed_key=bytes(60), encrypted_data_key=bytes(184))


def key_record(userid: str, job_id: str = "g-0", private_key: bytes | None = None) -> KeyRecord:
    """Return a record as it is stored."""
    sealed = sealed_record(userid, private_key)
    return KeyRecord.of(sealed, kms_key=KMS_KEY_ARN, created_at="2026-11-24T00:00:00Z", job_id=job_id)


class BirthOffice:
    """Makes documents of births, with the signatures of a made-up authority."""

    def __init__(self) -> None:
        self._signer = NitroAuthority.create(now_s=NOW_S).issue_signer("i-0-enc0", now_s=NOW_S)

    def document(self, sealed: SealedRecord) -> bytes:
        """Return the document that belongs to a record."""
        return make_document(
            self._signer,
            module_id="i-0-enc0",
            time_s=NOW_S,
            pcrs=dict.fromkeys(range(16), bytes([7]) * 48),
            public_key=None,
            user_data=birth_user_data(sealed.statement, sealed_record_sha256(sealed)),
            nonce=None,
        )

    def certificate(self, sealed: SealedRecord) -> BirthCertificate:
        """Return the whole certificate."""
        return BirthCertificate(
            statement=sealed.statement, sealed_sha256=sealed_record_sha256(sealed), document=self.document(sealed)
        )


@dataclass
class ScriptedProcess:
    """One server process of an enclave: honest, unless a test changes an attribute."""

    role: Role = Role.SIGNER
    processes: int = 1
    instance: bytes = bytes(16)
    kms_key_arn: str | None = KMS_KEY_ARN
    module_id: str | None = "i-0-enc0"
    max_frame_bytes: int = 1 << 20
    max_batch_items: int = 100
    reason: NotReadyReason | None = NotReadyReason.NO_CREDENTIALS
    office: BirthOffice | None = None
    sign: Callable[[SignItem], bytes] | None = None
    generate: Callable[[GenerateItem], GeneratedKey] | None = None
    results: Callable[[Request], Result] | None = None
    """Answers batches in place of everything honest."""
    hold: asyncio.Event | None = None
    """Batches wait for it."""
    credentials: list[SetCredentials] = field(default_factory=list)
    batches: list[Sequence[Any]] = field(default_factory=list)
    overloaded: int = 0
    """How many more questions beside hello are refused as too much."""
    refuses_credentials: bool = False
    hellos: int = 0
    statuses: int = 0

    async def handle(self, request: Request) -> Result:
        """Answer."""
        if self.overloaded and not isinstance(request, Hello):
            self.overloaded -= 1
            raise SignerError(ErrorCode.OVERLOADED)
        match request:
            case Hello():
                self.hellos += 1
                return self._hello()
            case SetCredentials() if self.refuses_credentials:
                raise SignerError(ErrorCode.NOT_ALLOWED)
            case SetCredentials():
                self.credentials.append(request)
                if self.reason is NotReadyReason.NO_CREDENTIALS:
                    self.reason = None
                return SetCredentialsResult(expires_in_s=60)
            case Status():
                self.statuses += 1
                return StatusResult(
                    ready=self.reason is None,
                    reason=self.reason,
                    credentials_expire_in_s=60,
                    in_flight=0,
                    counters={"kms_calls": 7, "cache_hits": 2, "cache_entries": 1},
                )
            case Sign() | Generate():
                self.batches.append(request.items)
                if self.hold is not None:
                    await self.hold.wait()
                if self.results is not None:
                    return self.results(request)
                return self._do(request)
            case _:
                raise SignerError(ErrorCode.NOT_ALLOWED)

    def _hello(self) -> HelloResult:
        return HelloResult(
            version=1,
            limits=Limits(max_frame_bytes=self.max_frame_bytes, max_batch_items=self.max_batch_items, max_in_flight=64),
            enclave=EnclaveFacts(
                role=self.role,
                software="scripted",
                instance=self.instance,
                module_id=self.module_id,
                pcr0=None,
                config_sha256=None,
                kms_key_arn=self.kms_key_arn,
                processes=self.processes,
            ),
            ready=self.reason is None,
            reason=self.reason,
        )

    def _do(self, request: Sign | Generate) -> Result:
        if self.reason is not None:
            raise SignerError(ErrorCode.NOT_READY)
        if isinstance(request, Sign):
            return SignResult(results=tuple(self._sign(item) for item in request.items))
        return GenerateResult(results=tuple(self._generate(item) for item in request.items))

    def _sign(self, item: SignItem | BadItem) -> SignItemResult:
        if isinstance(item, BadItem):
            return SignItemResult(error=ErrorBody.of(ErrorCode.BAD_REQUEST))
        try:
            return SignItemResult(signature=(self.sign or honest_signature)(item))
        except SignerError as error:
            return SignItemResult(error=ErrorBody.of(error.code))

    def _generate(self, item: GenerateItem | BadItem) -> GenerateItemResult:
        if isinstance(item, BadItem):
            return GenerateItemResult(error=ErrorBody.of(ErrorCode.BAD_REQUEST))
        try:
            return GenerateItemResult(key=(self.generate or self.honest_key)(item))
        except SignerError as error:
            return GenerateItemResult(error=ErrorBody.of(error.code))

    def honest_key(self, item: GenerateItem) -> GeneratedKey:
        """Make the key of a user."""
        if self.office is None:
            raise SignerError(ErrorCode.NSM_FAILED)
        sealed = sealed_record(item.userid)
        return GeneratedKey(record=sealed, birth_document=self.office.document(sealed))


def honest_signature(item: SignItem) -> bytes:
    """Sign as the enclave does."""
    key = KeyPair(private_key_of(item.userid))
    return key.sign(digest_of(item.message, item.digest), item.scheme, item.format)


class Running:
    """A process that listens, and can be killed."""

    def __init__(self, server: Server, task: asyncio.Task[None]) -> None:
        self.server = server
        self._task = task

    async def kill(self) -> None:
        """End it: connections are cut."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def publish(self, events: Events) -> bool:
        """Send log events."""
        return self.server.publish(events)


@contextlib.asynccontextmanager
async def serving(address: Address, process: ScriptedProcess) -> AsyncGenerator[Running, None]:
    """Run a process until the end, or until it is killed."""

    def fail(name: str, error: BaseException) -> None:
        raise AssertionError(name) from error

    server = Server(process, ServerLimits(), fail)
    async with asyncio.TaskGroup() as group:
        running = Running(server, group.create_task(server.serve(listen(address))))
        try:
            yield running
        finally:
            await running.kill()


class GivenCredentials:
    """A source whose credentials the test changes; None when there are none."""

    def __init__(self, credentials: SetCredentials | None = CREDENTIALS) -> None:
        self.credentials = credentials

    async def current(self) -> SetCredentials:
        """Return them."""
        if self.credentials is None:
            raise NoCredentialsError("NoCredentials")
        return self.credentials


@contextlib.asynccontextmanager
async def pool_of(
    addresses: Sequence[Address],
    operation: Operation[Any, Any],
    *,
    settings: EnclaveClientSettings = QUICK,
    source: CredentialSource | None = None,
    kms_key_arn: str | None = KMS_KEY_ARN,
) -> AsyncGenerator[EnclavePool[Any, Any], None]:
    """Open a pool, with pauses as short as they get."""
    async with open_enclave_pool(
        addresses,
        operation,
        settings,
        source or GivenCredentials(),
        kms_key_arn=kms_key_arn,
        uniform=lambda: 0.1,
    ) as pool:
        yield pool


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until something is so; a test's own time limit ends it otherwise."""
    async with asyncio.timeout(LONG_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


STORE = StoreSettings(collect_ms=0, call_tries=3)


def client_error(code: str, **more: Any) -> ClientError:
    """Return an error as botocore raises it."""
    response: Any = {"Error": {"Code": code, "Message": "x"}, **more}
    return ClientError(response, "Op")


class ScriptedDynamoDb:
    """The three calls on tables in memory. Each of `faults` happens to one call, one after another.

    A fault is an exception to raise before anything is done, `LOSE_ANSWER` to do the work and lose the answer, or a
    number of keys that a batch read leaves unprocessed.
    """

    LOSE_ANSWER = "lose the answer"

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, Any]]] = {"UserToken": {}, "UserTokenBirth": {}}
        self.keys = {"UserToken": "userid", "UserTokenBirth": "publickey"}
        self.faults: list[Exception | str | int] = []
        self.calls: list[tuple[str, int]] = []
        self.tells_conflicts = True

    def put(self, table: str, item: Mapping[str, str]) -> None:
        """Put an item past all conditions."""
        self.tables[table][item[self.keys[table]]] = {name: {"S": value} for name, value in item.items()}

    def _fault(self) -> Exception | str | int | None:
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        return fault

    async def get_item(self, *, TableName: str, Key: Mapping[str, Any], ConsistentRead: bool) -> dict[str, Any]:  # noqa: N803 - AWS's names
        """Read one."""
        assert ConsistentRead
        self.calls.append(("get", 1))
        self._fault()
        item = self.tables[TableName].get(Key[self.keys[TableName]]["S"])
        return {} if item is None else {"Item": item}

    async def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N803 - AWS's names
        """Read many."""
        ((table, wanted),) = RequestItems.items()
        name = self.keys[table]
        assert wanted["ConsistentRead"]
        keys = [key[name]["S"] for key in wanted["Keys"]]
        assert len(set(keys)) == len(keys) <= 100
        self.calls.append(("batch", len(keys)))
        fault = self._fault()
        left = keys[-fault:] if isinstance(fault, int) and fault else []
        found = [self.tables[table][key] for key in keys if key in self.tables[table] and key not in left]
        unprocessed = {table: {"Keys": [{name: {"S": key}} for key in left]}} if left else {}
        return {"Responses": {table: found}, "UnprocessedKeys": unprocessed}

    async def put_item(
        self,
        *,
        TableName: str,  # noqa: N803 - AWS's names
        Item: dict[str, Any],  # noqa: N803 - the same
        ConditionExpression: str,  # noqa: N803 - the same
        ExpressionAttributeNames: Mapping[str, str],  # noqa: N803 - the same
        ReturnValuesOnConditionCheckFailure: str,  # noqa: N803 - the same
    ) -> dict[str, Any]:
        """Write one, if nothing is there."""
        name = self.keys[TableName]
        assert ConditionExpression == "attribute_not_exists(#key)"
        assert ExpressionAttributeNames == {"#key": name}
        assert ReturnValuesOnConditionCheckFailure == "ALL_OLD"
        self.calls.append(("put", 1))
        fault = self._fault()
        existing = self.tables[TableName].get(Item[name]["S"])
        if existing is not None:
            more = {"Item": existing} if self.tells_conflicts else {}
            raise client_error("ConditionalCheckFailedException", **more)
        self.tables[TableName][Item[name]["S"]] = Item
        if fault == self.LOSE_ANSWER:
            raise TimeoutError
        return {}
