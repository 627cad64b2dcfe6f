"""The pool over real sockets: routes, limits, credentials, restarts, wrong and hostile enclaves."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol.address import UnixAddress
from protocol.cbor import encode
from protocol.errors import ErrorCode, SignerError
from protocol.messages import (
    Events,
    GenerateItem,
    NotReadyReason,
    Request,
    Role,
    SealedRecord,
    Sign,
    SignItem,
    SignItemResult,
    SignResult,
)
from tests.workers.parent.scripted import (
    CREDENTIALS,
    KMS_KEY_ARN,
    LONG_S,
    QUICK,
    BirthOffice,
    GivenCredentials,
    ScriptedProcess,
    honest_signature,
    key_record,
    pool_of,
    serving,
    until,
)
from workers.enclaves.calls import ENVELOPE_BYTES, GENERATE, SIGN, FromEnclave
from workers.enclaves.pool import MAX_PROCESSES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from workers.enclaves.pool import EnclavePool

OTHER_ARN = "arn:aws:kms:eu-central-1:111122223333:key/6f1c1d52-0000-4000-8000-000000000002"


@pytest.fixture
def address(tmp_path: Path) -> UnixAddress:
    """Where the first process of the enclave listens."""
    return UnixAddress(str(tmp_path / "e"))


def item(userid: str, message: bytes = b"Hello World") -> SignItem:
    """Return a sign item."""
    return SignItem(userid=userid, record=key_record(userid).record, message=message)


def codes(results: Sequence[Any]) -> list[ErrorCode | None]:
    """Return the code of each error."""
    return [result.code if isinstance(result, SignerError) else None for result in results]


async def opened(pool: EnclavePool[Any, Any]) -> None:
    """Wait until the pool takes items."""
    async with asyncio.timeout(LONG_S):
        await pool.wait_open()


@contextlib.asynccontextmanager
async def running(address: UnixAddress, process: ScriptedProcess) -> AsyncGenerator[EnclavePool[Any, Any], None]:
    """Run one process and a pool of it, ready."""
    async with serving(address, process), pool_of([address], SIGN) as pool:
        await opened(pool)
        yield pool


async def test_items_are_signed_and_keep_their_order(address: UnixAddress) -> None:
    """Each item has its own result, from the enclave that is named."""
    items = [item(f"u{n}") for n in range(5)]
    async with running(address, ScriptedProcess()) as pool:
        results = await pool.call(items)
    assert [result.value for result in results if isinstance(result, FromEnclave)] == list(map(honest_signature, items))
    assert {result.enclave.module_id for result in results if isinstance(result, FromEnclave)} == {"i-0-enc0"}


async def test_keys_are_generated(address: UnixAddress) -> None:
    """The other operation goes the same way, to generators."""
    process = ScriptedProcess(role=Role.GENERATOR, office=BirthOffice())
    async with serving(address, process), pool_of([address], GENERATE) as pool:
        await opened(pool)
        (result,) = await pool.call([GenerateItem(userid="u1")])
    assert isinstance(result, FromEnclave)
    assert result.value.record == key_record("u1").record


async def test_no_items_are_no_frame(address: UnixAddress) -> None:
    """Nothing to do asks nobody."""
    process = ScriptedProcess()
    async with running(address, process) as pool:
        assert await pool.call([]) == []
    assert process.batches == []


async def test_one_bad_item_fails_alone(address: UnixAddress) -> None:
    """An error of the enclave for an item is that item's, with its code."""

    def sign(item: SignItem) -> bytes:
        if item.userid == "u1":
            raise SignerError(ErrorCode.RECORD_REFUSED)
        return honest_signature(item)

    async with running(address, ScriptedProcess(sign=sign)) as pool:
        results = await pool.call([item("u0"), item("u1"), item("u2")])
    assert codes(results) == [None, ErrorCode.RECORD_REFUSED, None]


async def test_a_user_goes_to_one_process(address: UnixAddress) -> None:
    """With several processes a user id always meets the same one, and all of them work."""
    processes = [ScriptedProcess(processes=3, instance=bytes([n]) * 16) for n in range(3)]
    items = [item(f"u{n}") for n in range(60)]
    async with contextlib.AsyncExitStack() as stack:
        for index, process in enumerate(processes):
            await stack.enter_async_context(serving(address.sibling(index), process))
        pool = await stack.enter_async_context(pool_of([address], SIGN))
        await until(lambda: len(pool.enclaves[0].ready) == 3)
        for _ in range(3):
            assert not any(codes(await pool.call(items)))
    met: list[set[str]] = [{item.userid for batch in process.batches for item in batch} for process in processes]
    assert sum(map(len, met)) == 60
    assert all(met)
    assert all(process.credentials == [CREDENTIALS] for process in processes)


async def test_while_a_process_is_down_another_takes_its_users(address: UnixAddress) -> None:
    """Nobody waits for one process while others are up; the users of the others do not move."""
    processes = [ScriptedProcess(processes=2) for _ in range(2)]
    items = [item(f"u{n}") for n in range(20)]
    async with serving(address, processes[0]), pool_of([address], SIGN) as pool:
        async with serving(address.sibling(1), processes[1]) as second:
            await until(lambda: len(pool.enclaves[0].ready) == 2)
            await pool.call(items)
            await second.kill()
        await until(lambda: len(pool.enclaves[0].ready) == 1)
        assert not any(codes(await pool.call(items)))
    assert len(processes[0].batches[-1]) == 20


async def test_the_least_loaded_enclave_takes_a_batch(tmp_path: Path) -> None:
    """A batch goes to the enclave with the fewest items in flight."""
    busy, idle = ScriptedProcess(hold=asyncio.Event()), ScriptedProcess()
    addresses = [UnixAddress(str(tmp_path / name)) for name in ("a", "b")]
    async with serving(addresses[0], busy), serving(addresses[1], idle), pool_of(addresses, SIGN) as pool:
        await until(lambda: all(enclave.ready for enclave in pool.enclaves))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(pool.call([item("u1")] * 3))
            await until(lambda: busy.batches)
            for _ in range(3):
                assert codes(await pool.call([item("u1")])) == [None]
            assert busy.hold is not None
            busy.hold.set()
        assert codes(waiting.result()) == [None] * 3
    assert (len(busy.batches), len(idle.batches)) == (1, 3)


async def test_frames_keep_the_limits_of_the_enclave(address: UnixAddress) -> None:
    """Items are split by count and by bytes; no frame is refused."""
    process = ScriptedProcess(max_batch_items=4, max_frame_bytes=90 * 1024)
    async with running(address, process) as pool:
        assert not any(codes(await pool.call([item(f"u{n}") for n in range(10)])))
        assert [len(batch) for batch in process.batches] == [4, 4, 2]
        process.batches.clear()
        assert not any(codes(await pool.call([item(f"u{n}", bytes(30 * 1024)) for n in range(3)])))
        assert [len(batch) for batch in process.batches] == [2, 1]


async def test_concurrent_callers_share_a_frame(address: UnixAddress) -> None:
    """Items that come together go together."""
    process = ScriptedProcess()
    async with running(address, process) as pool, asyncio.TaskGroup() as group:
        for n in range(5):
            group.create_task(pool.call([item(f"u{n}")]))
    assert [len(batch) for batch in process.batches] == [5]


@given(
    userid=st.text("abc", min_size=1, max_size=128),
    message=st.binary(max_size=300),
    statement=st.binary(max_size=1024),
    sealed_key=st.binary(max_size=128),
    encrypted_data_key=st.binary(max_size=6144),
)
def test_the_weight_of_an_item_is_an_upper_bound(
    userid: str, message: bytes, statement: bytes, sealed_key: bytes, encrypted_data_key: bytes
) -> None:
    """A frame of items that fit by weight fits by bytes."""
    record = SealedRecord(statement=statement, sealed_key=sealed_key, encrypted_data_key=encrypted_data_key)
    heavy = SignItem(userid=userid, record=record, message=message)
    for count in (1, 7):
        body = {"v": 1, "id": 2**32 - 1, "type": "sign", "body": Sign(items=(heavy,) * count).model_dump()}
        assert len(encode(body)) <= count * SIGN.weigh(heavy) + ENVELOPE_BYTES


async def test_the_gate_is_closed_until_an_enclave_works(address: UnixAddress) -> None:
    """Without an enclave the gate is closed and items fail at once with a code that is tried again."""
    async with pool_of([address], SIGN) as pool:
        assert not pool.is_open
        results = await pool.call([item("u1")])
        assert codes(results) == [ErrorCode.ENCLAVE_UNAVAILABLE]
        process = ScriptedProcess(reason=NotReadyReason.STARTING)
        async with serving(address, process):
            await until(lambda: process.statuses >= 2)
            assert not pool.is_open
            process.reason = None
            await opened(pool)
        await until(lambda: not pool.is_open)
        async with serving(address, ScriptedProcess()):
            await opened(pool)


async def test_a_lost_connection_fails_its_items_only(address: UnixAddress) -> None:
    """What was in flight at a killed process fails with a code that is tried again; then the pool recovers."""
    process = ScriptedProcess(hold=asyncio.Event())
    async with pool_of([address], SIGN) as pool:
        async with serving(address, process) as server, asyncio.TaskGroup() as group:
            await opened(pool)
            lost = group.create_task(pool.call([item("u1"), item("u2")]))
            await until(lambda: process.batches)
            await server.kill()
        assert codes(lost.result()) == [ErrorCode.ENCLAVE_UNAVAILABLE] * 2
        async with serving(address, ScriptedProcess()):
            await opened(pool)
            assert codes(await pool.call([item("u1")])) == [None]


async def test_a_restarted_enclave_is_met_anew(address: UnixAddress) -> None:
    """After a restart it is greeted, given credentials and asked again; nothing of the old one is used."""
    first, second = ScriptedProcess(instance=bytes([1]) * 16), ScriptedProcess(instance=bytes([2]) * 16)
    with capture_logs() as logs:
        async with pool_of([address], SIGN) as pool:
            async with serving(address, first):
                await opened(pool)
            await until(lambda: not pool.is_open)
            async with serving(address, second):
                await opened(pool)
                (result,) = await pool.call([item("u1")])
    assert isinstance(result, FromEnclave)
    assert result.enclave.instance == second.instance
    assert (second.hellos, second.credentials) == (1, [CREDENTIALS])
    assert [log["instance"] for log in logs if log["event"] == "enclave_restarted"] == [second.instance.hex()]


async def test_a_process_that_was_met_while_it_started_is_met_again(address: UnixAddress) -> None:
    """It cannot name its module before it has asked the NSM, and the audit events of its signatures need the name."""
    process = ScriptedProcess(reason=NotReadyReason.STARTING, module_id=None)
    async with serving(address, process), pool_of([address], SIGN) as pool:
        await until(lambda: process.statuses > 0)
        process.reason, process.module_id = None, "i-0-enc0"
        await opened(pool)
        (result,) = await pool.call([item("u1")])
    assert isinstance(result, FromEnclave)
    assert result.enclave.module_id == "i-0-enc0"


async def test_the_number_of_processes_is_followed(address: UnixAddress) -> None:
    """An enclave that comes back with more or fewer processes is used as it is, within reason."""
    async with pool_of([address], SIGN) as pool:
        links = pool.enclaves[0].links
        for processes, followed in ((3, 3), (1, 1), (10**9, MAX_PROCESSES)):
            async with serving(address, ScriptedProcess(processes=processes)):
                await until(partial(_has_length, links, followed))
            await until(lambda: not pool.is_open)


def _has_length(values: list[Any], length: int) -> bool:
    return len(values) == length


async def test_new_credentials_are_pushed_before_the_old_ones_end(address: UnixAddress) -> None:
    """What the SDK has renewed reaches the enclave without a reconnect, and the same is not pushed twice."""
    process, source = ScriptedProcess(), GivenCredentials()
    async with serving(address, process), pool_of([address], SIGN, source=source):
        await until(lambda: process.statuses >= 3)
        newer = CREDENTIALS.model_copy(update={"access_key_id": "ASIANEWER", "expires_at_s": 2_000_003_600})
        source.credentials = newer
        await until(lambda: len(process.credentials) == 2)
        seen = process.statuses
        await until(lambda: process.statuses >= seen + 2)
    assert process.credentials == [CREDENTIALS, newer]
    assert process.hellos == 1


async def test_without_credentials_the_enclave_is_asked_again(address: UnixAddress) -> None:
    """Credentials that come late are pushed when they come; until then the gate is closed."""
    process, source = ScriptedProcess(), GivenCredentials(None)
    with capture_logs() as logs:
        async with serving(address, process), pool_of([address], SIGN, source=source) as pool:
            await until(lambda: process.statuses >= 2)
            assert not pool.is_open
            source.credentials = CREDENTIALS
            await opened(pool)
    assert {"NoCredentials"} == {log["code"] for log in logs if log["event"] == "credentials_unavailable"}


@pytest.mark.parametrize(
    ("process", "expected", "found"),
    [
        (ScriptedProcess(role=Role.GENERATOR), "signer", "generator"),
        (ScriptedProcess(kms_key_arn=OTHER_ARN), KMS_KEY_ARN, OTHER_ARN),
        (ScriptedProcess(max_frame_bytes=1024), "frames of 81920 bytes", "1024 bytes"),
    ],
)
async def test_another_enclave_gets_nothing(
    address: UnixAddress, process: ScriptedProcess, expected: str, found: str
) -> None:
    """An enclave of another role or key is named in the log, and gets neither credentials nor jobs."""
    with capture_logs() as logs:
        async with serving(address, process), pool_of([address], SIGN) as pool:
            await until(lambda: process.hellos >= 2)
            assert not pool.is_open
    assert (process.credentials, process.batches) == ([], [])
    told = [(log["expected"], log["found"]) for log in logs if log["event"] == "enclave_is_another"]
    assert set(told) == {(expected, found)}


async def test_an_enclave_without_a_configuration_says_so(address: UnixAddress) -> None:
    """No role means that the measured configuration could not be read: not ready, with that reason."""
    process = ScriptedProcess(reason=NotReadyReason.BAD_CONFIG, kms_key_arn=None)
    process.role = None  # type: ignore[assignment]  # as such an enclave says
    with capture_logs() as logs:
        async with serving(address, process), pool_of([address], SIGN) as pool:
            await until(lambda: process.statuses >= 2)
            assert not pool.is_open
    assert {"bad_config"} == {log["reason"] for log in logs if log["event"] == "enclave_not_ready" and log["reason"]}


async def test_not_ready_closes_the_gate_at_once(address: UnixAddress) -> None:
    """A process that says not_ready to a batch is asked how it is, without waiting for the next look."""
    process = ScriptedProcess()
    patient = QUICK.model_copy(update={"check_interval_s": LONG_S})
    async with serving(address, process), pool_of([address], SIGN, settings=patient) as pool:
        await opened(pool)
        process.reason = NotReadyReason.CREDENTIALS_EXPIRED
        assert codes(await pool.call([item("u1")])) == [ErrorCode.NOT_READY]
        await until(lambda: not pool.is_open)


async def test_a_busy_process_is_not_an_ill_one(address: UnixAddress) -> None:
    """A status or credentials that are refused as too much are tried again; the connection stays."""
    process, source = ScriptedProcess(), GivenCredentials()
    async with serving(address, process), pool_of([address], SIGN, source=source) as pool:
        await opened(pool)
        process.overloaded = 3
        source.credentials = CREDENTIALS.model_copy(update={"access_key_id": "ASIANEWER"})
        await until(lambda: len(process.credentials) == 2)
        assert pool.is_open
    assert (process.hellos, process.overloaded) == (1, 0)


async def test_a_process_that_refuses_credentials_is_not_used(address: UnixAddress) -> None:
    """Any other refusal ends the connection, and the next one begins anew."""
    process = ScriptedProcess(refuses_credentials=True)
    async with serving(address, process), pool_of([address], SIGN) as pool:
        await until(lambda: process.hellos >= 2)
        assert not pool.is_open


async def test_a_process_that_hangs_is_given_up(address: UnixAddress) -> None:
    """Items end at their deadline; a status that does not come ends the connection."""
    process = ScriptedProcess(hold=asyncio.Event())
    hasty = QUICK.model_copy(update={"call_timeout_s": 0.05})
    async with serving(address, process), pool_of([address], SIGN, settings=hasty) as pool:
        await opened(pool)
        assert codes(await pool.call([item("u1")])) == [ErrorCode.DEADLINE_EXCEEDED]
        assert process.hold is not None
        process.hold.set()
        await until(lambda: pool.is_open)


def too_few(request: Request) -> SignResult:
    """One result less than items."""
    assert isinstance(request, Sign)
    return SignResult(results=(SignItemResult(signature=bytes(64)),) * (len(request.items) - 1))


async def test_a_wrong_number_of_results_is_no_answer(address: UnixAddress) -> None:
    """Results that cannot be matched with items are used for none, and the connection ends."""
    process = ScriptedProcess(results=too_few)
    async with running(address, process) as pool:
        assert codes(await pool.call([item("u1"), item("u2")])) == [ErrorCode.ENCLAVE_UNAVAILABLE] * 2
        await until(lambda: process.hellos == 2)


async def test_an_unconnected_process_takes_nothing(address: UnixAddress) -> None:
    """Between the choice of a process and its use the connection may end: the items fail, and nothing is sent."""
    async with pool_of([address], SIGN) as pool:
        assert codes(await pool.enclaves[0].links[0].submit([item("u1")])) == [ErrorCode.ENCLAVE_UNAVAILABLE]


async def test_a_single_event_is_written_again(address: UnixAddress) -> None:
    """An honest notice is one line for each event, and no word of losses."""
    with capture_logs() as logs:
        async with serving(address, ScriptedProcess()) as server, pool_of([address], SIGN) as pool:
            await opened(pool)
            event = {"event": "started", "level": "info", "time": 3}
            await until(lambda: server.publish(Events(events=(event,), dropped=0)))
            await until(lambda: any(log["event"] == "started" for log in logs))
    (told,) = [log for log in logs if log.get("source") == "enclave"]
    assert told == {
        "event": "started", "log_level": "info", "source": "enclave", "address": str(address), "enclave_time": 3,
    }  # fmt: skip


async def test_events_are_written_again_without_what_an_enclave_may_not_say(address: UnixAddress) -> None:
    """Name, level, time and listed fields come over; job ids, roles, odd names and floods do not."""
    process = ScriptedProcess()
    entries: tuple[dict[str, Any], ...] = (
        {"event": "clock_drift", "level": "error", "time": 1.5, "offset_s": 61.0, "job_id": "j", "role": "x"},
        {"event": "Not a name\n", "level": "exec", "time": "now", "code": b"bytes", "reason": ["x"]},
        {},
        *({"event": "flood", "level": "info", "time": 2},) * 200,
    )
    with capture_logs() as logs:
        async with serving(address, process) as server, pool_of([address], SIGN) as pool:
            await opened(pool)
            await until(lambda: server.publish(Events(events=entries, dropped=3)))
            await until(lambda: any(log["event"] == "enclave_events_dropped" for log in logs))
    told = [log for log in logs if log.get("source") == "enclave"]
    common = {"source": "enclave", "address": str(address)}
    assert told[0] == {
        **common, "event": "clock_drift", "log_level": "error", "enclave_time": 1.5, "offset_s": 61.0,
    }  # fmt: skip
    unnamed = {**common, "event": "enclave_event_unnamed", "log_level": "warning", "enclave_time": None}
    assert told[1:3] == [unnamed, unnamed]
    assert len(told) == 101
    assert told[-1]["dropped"] == 3 + 103
