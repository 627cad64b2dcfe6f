"""What a job costs, counted and not timed: AWS calls, frames to the enclave, and calls of this project's functions.

A regression shows here on any machine, however busy. A bound that is met with much to spare may be lowered.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, cast

import structlog

from config.logging import configure_logging
from protocol.errors import SignerError
from protocol.messages import EnclaveFacts, Role, SignItem
from tests.workers.parent.scripted import STORE, ScriptedDynamoDb, honest_signature, key_record
from workers.collector import Collector, fallible_collector
from workers.enclaves.calls import FromEnclave
from workers.keys.dynamodb import DynamoDbCalls
from workers.keys.keystore import KeyStore
from workers.sign import SignHandler

if TYPE_CHECKING:
    from tests.workers.queue.conftest import Rig

ROOT = Path(__file__).resolve().parents[3]
URL = "https://sqs.eu-west-1.amazonaws.com/111122223333/sign"
USERS = 50
SINGLE_CALLS, BULK_CALLS = 95, 46
"""Own functions called for one signature: 88 and 42 when this was written."""

FACTS = EnclaveFacts(
    role=Role.SIGNER,
    software="counted",
    instance=bytes(16),
    module_id="i-0-enc0",
    pcr0=None,
    config_sha256=None,
    kms_key_arn=None,
    processes=1,
)


class CountedEnclave:
    """Signs at once, and counts the frames that it would have taken."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.frames: list[int] = []
        self._batches: Collector[SignItem, FromEnclave[bytes] | SignerError] = fallible_collector(
            self._sign, group, max_items=100, wait_s=0.001
        )

    async def call(self, items: Sequence[SignItem]) -> list[FromEnclave[bytes] | SignerError]:
        """Sign."""
        return list(await self._batches.submit(items))

    async def _sign(self, items: Sequence[SignItem]) -> list[FromEnclave[bytes] | SignerError]:
        self.frames.append(len(items))
        return [FromEnclave(honest_signature(item), FACTS) for item in items]


class OwnCalls:
    """Counts the calls of functions of this project while it is entered. Comprehensions count, libraries do not."""

    def __init__(self) -> None:
        self.count = 0
        self._is_own: dict[str, bool] = {}

    def __enter__(self) -> Self:
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            name = frame.f_code.co_filename
            own = self._is_own.get(name)
            if own is None:
                own = self._is_own[name] = name.startswith(
                    tuple(f"{ROOT}/{p}/" for p in ("workers", "protocol", "config"))
                )
            self.count += own


async def work(rig: "Rig", jobs: Sequence[dict[str, Any]]) -> tuple[CountedEnclave, ScriptedDynamoDb, int]:
    """Have jobs done, all of them waiting from the start; return what counted frames, reads and own calls."""
    db = ScriptedDynamoDb()
    for number in range(USERS):
        db.put("UserToken", key_record(f"u{number}").to_item())
    for job in jobs:
        rig.sqs.put(URL, json.dumps(job))
    async with asyncio.TaskGroup() as group:
        enclave = CountedEnclave(group)
        store = KeyStore(
            DynamoDbCalls(cast("Any", db), call_timeout_s=5, tries=1),
            STORE.model_copy(update={"cache_records": 1000}),
            group,
        )
        rig.handler = cast("Any", SignHandler(store, enclave))
        with OwnCalls() as own:
            async with rig.running():
                await rig.until_empty()
    return enclave, db, own.count


def single(count: int) -> list[dict[str, Any]]:
    """Return sign jobs."""
    return [{"type": "sign", "job_id": f"s-{n}", "userid": f"u{n % USERS}", "message": f"{n}"} for n in range(count)]


async def test_single_jobs_on_a_busy_queue(rig: "Rig") -> None:
    """For 1,000 jobs: at most 320 SQS calls, as many reads as fit the users, and few frames."""
    enclave, db, _ = await work(rig, single(1000))
    names = [call.name for call in rig.sqs.calls]
    assert names.count("send_message_batch") == names.count("delete_message_batch") == 100
    assert len(names) <= 320
    assert sum(enclave.frames) == 1000
    assert len(enclave.frames) <= 100
    assert len(db.calls) <= 10


async def test_a_bulk_job(rig: "Rig") -> None:
    """For 1,000 signatures: four SQS calls beside an empty receive or two, one read, ten frames."""
    items = [{"userid": f"u{n % USERS}", "message": f"{n}"} for n in range(1000)]
    enclave, db, _ = await work(rig, [{"type": "sign_batch", "items": items}])
    names = [call.name for call in rig.sqs.calls]
    assert (names.count("send_message_batch"), names.count("delete_message_batch")) == (1, 1)
    assert len(names) <= 6
    assert enclave.frames == [100] * 10
    assert len(db.calls) == 1


async def test_function_calls_of_a_single_job(rig: "Rig", tmp_path: Path) -> None:
    """The work of this project's own code for one job does not creep up; log lines are written as in production."""
    per_job = await own_calls_per_job(rig, tmp_path, single(500), 500)
    assert 40 < per_job <= SINGLE_CALLS


async def test_function_calls_of_a_bulk_signature(rig: "Rig", tmp_path: Path) -> None:
    """The same for one signature of a bulk job."""
    items = [{"userid": f"u{n % USERS}", "message": f"{n}"} for n in range(1000)]
    per_signature = await own_calls_per_job(rig, tmp_path, [{"type": "sign_batch", "items": items}], 1000)
    assert 20 < per_signature <= BULK_CALLS


async def own_calls_per_job(rig: "Rig", folder: Path, jobs: Sequence[dict[str, Any]], count: int) -> float:
    """Return the calls of own functions for each of `count` signatures, with production's logging."""
    with (folder / "log").open("w") as stream:
        configure_logging("sign-worker", stream=stream)
        try:
            _, _, own = await work(rig, jobs)
        finally:
            structlog.reset_defaults()
    return own / count
