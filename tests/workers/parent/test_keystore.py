"""The key store on tables in memory that misbehave, and on MiniStack."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import EndpointConnectionError

from local.ministack import run_ministack
from local.resources import make_tables
from protocol.birth import BirthCertificate
from protocol.errors import ErrorCode, SignerError
from protocol.keyrecord import sealed_record_sha256
from tests.workers.parent.scripted import STORE, ScriptedDynamoDb, client_error, key_record, private_key_of
from workers.keys.dynamodb import DynamoDbCalls
from workers.keys.keystore import KeyStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from protocol.keyrecord import KeyRecord

MINISTACK_PYTHON = Path(__file__).resolve().parents[3] / ".venv-ministack" / "bin" / "python"
TRANSIENT = [
    client_error("ProvisionedThroughputExceededException"),
    client_error("ThrottlingException"),
    client_error("InternalServerError"),
    EndpointConnectionError(endpoint_url="http://x"),
    TimeoutError(),
    ConnectionResetError(),
]


@contextlib.asynccontextmanager
async def store_on(client: Any, **changes: Any) -> AsyncGenerator[KeyStore, None]:
    """Open a store."""
    settings = STORE.model_copy(update=changes)
    async with asyncio.TaskGroup() as group:
        yield KeyStore(DynamoDbCalls(client, call_timeout_s=10.0, tries=settings.call_tries), settings, group)


def certificate_of(record: KeyRecord) -> BirthCertificate:
    """Return a certificate of this record; its document is not looked at here."""
    return BirthCertificate(
        statement=record.record.statement, sealed_sha256=sealed_record_sha256(record.record), document=b"document"
    )


def code_of(found: object) -> ErrorCode | None:
    """Return the code of an error."""
    return found.code if isinstance(found, SignerError) else None


async def test_reads_of_all_callers_share_one_call() -> None:
    """Two callers, one of them twice for the same user: one call, and each key in it once."""
    db = ScriptedDynamoDb()
    for userid in ("u1", "u2"):
        db.put("UserToken", key_record(userid).to_item())
    async with store_on(db) as store, asyncio.TaskGroup() as group:
        one = group.create_task(store.get(["u1", "u2", "u1"]))
        other = group.create_task(store.get(["u2", "u404"]))
    assert one.result() == {"u1": key_record("u1"), "u2": key_record("u2")}
    assert other.result()["u2"] == key_record("u2")
    assert code_of(other.result()["u404"]) is ErrorCode.UNKNOWN_USER
    assert db.calls == [("batch", 3)]


async def test_more_than_a_hundred_keys_are_several_calls() -> None:
    """BatchGetItem takes a hundred."""
    db = ScriptedDynamoDb()
    async with store_on(db) as store:
        found = await store.get(f"u{n}" for n in range(250))
    assert len(found) == 250
    assert sorted(db.calls) == [("batch", 50), ("batch", 100), ("batch", 100)]


async def test_unprocessed_keys_are_read_again_alone() -> None:
    """What a batch left out is asked for again, and nothing else is."""
    db = ScriptedDynamoDb()
    for n in range(5):
        db.put("UserToken", key_record(f"u{n}").to_item())
    db.faults = [3, 1]
    async with store_on(db) as store:
        found = await store.get(f"u{n}" for n in range(5))
    assert found == {f"u{n}": key_record(f"u{n}") for n in range(5)}
    assert db.calls == [("batch", 5), ("batch", 3), ("batch", 1)]


async def test_keys_that_stay_unprocessed_fail_alone() -> None:
    """After the last try the read ones are good, and the unread ones are no unknown users."""
    db = ScriptedDynamoDb()
    for n in range(3):
        db.put("UserToken", key_record(f"u{n}").to_item())
    db.faults = [2, 1, 1]
    async with store_on(db) as store:
        found = await store.get(f"u{n}" for n in range(3))
    codes = sorted(str(code_of(value)) for value in found.values())
    assert codes == ["None", "None", "store_unavailable"]


@pytest.mark.parametrize("fault", TRANSIENT, ids=repr)
async def test_what_passes_is_tried_again(fault: Exception) -> None:
    """Throttling, server errors, lost connections and time-outs cost a pause, no job."""
    db = ScriptedDynamoDb()
    db.put("UserToken", key_record("u1").to_item())
    db.faults = [fault]
    async with store_on(db) as store:
        assert await store.get(["u1"]) == {"u1": key_record("u1")}
        db.faults = [fault]
        assert await store.get_one("u1") == key_record("u1")
        db.faults = [fault]
        assert await store.put_new(key_record("u2")) == key_record("u2")


async def test_tries_are_bounded() -> None:
    """A store that is down is `store_unavailable`, which the queue will try again."""
    db = ScriptedDynamoDb()
    db.faults = [client_error("ThrottlingException")] * 3
    async with store_on(db) as store:
        found = await store.get(["u1", "u2"])
    assert {code_of(value) for value in found.values()} == {ErrorCode.STORE_UNAVAILABLE}
    assert len(db.calls) == 3


@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException", "ValidationException"])
async def test_what_does_not_pass_is_not_tried_again(code: str) -> None:
    """Missing permissions or tables fail at once, and say nothing of a user."""
    db = ScriptedDynamoDb()
    async with store_on(db) as store:
        db.faults = [client_error(code)]
        assert code_of((await store.get(["u1"]))["u1"]) is ErrorCode.STORE_UNAVAILABLE
        db.faults = [client_error(code)]
        with pytest.raises(SignerError) as caught:
            await store.put_new(key_record("u1"))
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
    assert len(db.calls) == 2


@pytest.mark.parametrize("tells", [True, False])
async def test_the_first_record_stays(tells: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """A second key for a user is not stored; who tried it gets the first, also where DynamoDB does not tell it."""
    db = ScriptedDynamoDb()
    db.tells_conflicts = tells
    mine = key_record("u1", "g-2", private_key_of("another key"))
    async with store_on(db) as store:
        assert await store.put_new(key_record("u1", "g-1")) == key_record("u1", "g-1")
        assert await store.put_new(mine) == key_record("u1", "g-1")
    assert db.tables["UserToken"]["u1"]["job_id"] == {"S": "g-1"}


async def test_a_lost_answer_of_a_write_is_no_conflict() -> None:
    """The record was written, the answer was lost: the second try finds its own record."""
    db = ScriptedDynamoDb()
    db.faults = [db.LOSE_ANSWER]
    async with store_on(db) as store:
        assert await store.put_new(key_record("u1")) == key_record("u1")
        db.faults = [db.LOSE_ANSWER]
        await store.put_birth(key_record("u1").public_key, certificate_of(key_record("u1")))
    assert [name for name, _ in db.calls] == ["put", "put", "put", "put"]


async def test_an_item_that_comes_and_goes_is_no_success() -> None:
    """A conflict with an item that nobody can read afterwards is an error that is tried again."""
    db = ScriptedDynamoDb()
    async with store_on(db) as store:
        db.faults = [client_error("ConditionalCheckFailedException")]
        with pytest.raises(SignerError) as caught:
            await store.put_new(key_record("u1"))
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE


def swapped(item: dict[str, str]) -> dict[str, str]:
    """The whole record of another user under this user's id."""
    return {**key_record("u2").to_item(), "userid": item["userid"]}


def without_statement(item: dict[str, str]) -> dict[str, str]:
    """A row of the well-known demo: no statement."""
    return {name: value for name, value in item.items() if name != "statement"}


HOSTILE: list[Callable[[dict[str, str]], dict[str, str]]] = [
    swapped,
    without_statement,
    lambda item: {**item, "publickey": key_record("u2").to_item()["publickey"]},
    lambda item: {**item, "encrypted_privatekey": "not base64!"},
    lambda item: {**item, "encrypted_datakey": "AAAA" * 10_000},
    lambda item: {**item, "format": "nitro-signer/record/9"},
    lambda item: {**item, "statement": "oA=="},
]


@pytest.mark.parametrize("change", HOSTILE)
async def test_a_row_that_was_changed_is_refused_alone(change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """A swapped, edited or foreign row is `record_refused`; the rows beside it are read."""
    db = ScriptedDynamoDb()
    db.put("UserToken", key_record("u3").to_item())
    db.put("UserToken", change(key_record("u1").to_item()))
    async with store_on(db) as store:
        found = await store.get(["u1", "u3"])
        with pytest.raises(SignerError) as caught:
            await store.get_one("u1")
    assert code_of(found["u1"]) is caught.value.code is ErrorCode.RECORD_REFUSED
    assert found["u3"] == key_record("u3")


async def test_an_item_of_another_key_is_refused() -> None:
    """A store that answers a question with the valid row of another user convinces nobody."""
    db = ScriptedDynamoDb()
    db.tables["UserToken"]["u1"] = {name: {"S": value} for name, value in key_record("u2").to_item().items()}
    async with store_on(db) as store:
        found = await store.get(["u1"])
        with pytest.raises(SignerError) as caught:
            await store.get_one("u1")
        with pytest.raises(SignerError):
            await store.put_new(key_record("u1"))
    assert code_of(found["u1"]) is ErrorCode.UNKNOWN_USER
    assert caught.value.code is ErrorCode.RECORD_REFUSED


async def test_attributes_of_other_types_are_no_strings() -> None:
    """Binary attributes, numbers and further attributes do not disturb."""
    db = ScriptedDynamoDb()
    db.put("UserToken", key_record("u1").to_item())
    db.tables["UserToken"]["u1"]["note"] = {"N": "1"}
    db.put("UserToken", key_record("u2").to_item())
    db.tables["UserToken"]["u2"]["statement"] = {"B": b"x"}
    async with store_on(db) as store:
        found = await store.get(["u1", "u2"])
    assert found["u1"] == key_record("u1")
    assert code_of(found["u2"]) is ErrorCode.RECORD_REFUSED


async def test_cached_records_are_not_read_again_and_the_cache_is_bounded() -> None:
    """The records used last are kept, and no more than asked for; unknown users are asked for each time."""
    db = ScriptedDynamoDb()
    for userid in ("u1", "u2", "u3"):
        db.put("UserToken", key_record(userid).to_item())
    async with store_on(db, cache_records=2) as store:
        await store.get(["u1", "u2"])
        await store.get(["u1", "u404"])
        await store.get(["u404"])
        assert db.calls == [("batch", 2), ("batch", 1), ("batch", 1)]
        await store.get(["u3"])  # u2 was used longest ago
        assert await store.get_one("u1") == key_record("u1")
        assert len(db.calls) == 4
        await store.get(["u2"])
        assert len(db.calls) == 5


async def test_without_a_cache_every_read_is_a_read() -> None:
    """Off by configuration means off."""
    db = ScriptedDynamoDb()
    db.put("UserToken", key_record("u1").to_item())
    async with store_on(db) as store:
        for _ in range(2):
            await store.get(["u1"])
    assert db.calls == [("batch", 1)] * 2


async def test_a_birth_certificate_belongs_to_its_record() -> None:
    """The certificate of this very record is returned; a missing, foreign or malformed one is refused."""
    db = ScriptedDynamoDb()
    record = key_record("u1")
    resealed = record.model_copy(update={"record": record.record.model_copy(update={"sealed_key": bytes(59)})})
    async with store_on(db) as store:
        await store.put_birth(record.public_key, certificate_of(record))
        assert await store.get_birth(record) == certificate_of(record)
        for text in (certificate_of(key_record("u2")).to_base64(), certificate_of(resealed).to_base64(), "oA==", "!"):
            db.put("UserTokenBirth", {"publickey": record.public_key.hex(), "birth_certificate": text})
            with pytest.raises(SignerError) as caught:
                await store.get_birth(record)
            assert caught.value.code is ErrorCode.RECORD_REFUSED
        with pytest.raises(SignerError, match="no birth certificate"):
            await store.get_birth(key_record("u2"))


async def test_a_birth_certificate_is_never_replaced() -> None:
    """An enclave that sends the public key of an existing key again does not change its certificate."""
    db = ScriptedDynamoDb()
    record = key_record("u1")
    async with store_on(db) as store:
        await store.put_birth(record.public_key, certificate_of(record))
        with pytest.raises(SignerError) as caught:
            await store.put_birth(record.public_key, certificate_of(key_record("u2")))
        assert caught.value.code is ErrorCode.RECORD_REFUSED
        assert await store.get_birth(record) == certificate_of(record)


@pytest.mark.skipif(not MINISTACK_PYTHON.exists(), reason="no .venv-ministack: run `make setup`")
async def test_on_a_dynamodb_that_nobody_here_wrote(tmp_path: Path) -> None:
    """The same calls on MiniStack: conditional write with the winner in the error, batch read, certificate."""
    session = get_session()
    session.set_credentials("local", "local")
    async with (
        run_ministack(MINISTACK_PYTHON, tmp_path / "state", log=tmp_path / "log") as ministack,
        session.create_client("dynamodb", region_name="us-east-1", endpoint_url=ministack.endpoint_url) as client,
    ):
        await make_tables(client)
        async with store_on(client) as store:
            first = key_record("u1", "g-1")
            assert code_of((await store.get(["u1"]))["u1"]) is ErrorCode.UNKNOWN_USER
            await store.put_birth(first.public_key, certificate_of(first))
            assert await store.put_new(first) == first
            assert await store.put_new(key_record("u1", "g-2", private_key_of("other"))) == first
            await store.put_new(key_record("u2"))
            assert await store.get(["u1", "u2"]) == {"u1": first, "u2": key_record("u2")}
            assert await store.get_one("u1") == first
            assert await store.get_birth(first) == certificate_of(first)
