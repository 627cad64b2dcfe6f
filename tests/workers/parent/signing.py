"""A sign handler on one scripted enclave process and a scripted table."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from protocol.address import UnixAddress
from tests.workers.parent.scripted import LONG_S, STORE, ScriptedDynamoDb, ScriptedProcess, pool_of, serving
from workers.enclaves.calls import SIGN
from workers.keys.dynamodb import DynamoDbCalls
from workers.keys.keystore import KeyStore
from workers.sign import SignHandler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


@contextlib.asynccontextmanager
async def handler_of(folder: Path, process: ScriptedProcess, db: ScriptedDynamoDb) -> AsyncGenerator[SignHandler, None]:
    """Run a handler on one enclave process and a table."""
    address = UnixAddress(str(folder / "e"))
    calls: Any = db
    async with (
        serving(address, process),
        pool_of([address], SIGN) as pool,
        asyncio.TaskGroup() as group,
    ):
        async with asyncio.timeout(LONG_S):
            await pool.wait_open()
        yield SignHandler(KeyStore(DynamoDbCalls(calls, call_timeout_s=5, tries=1), STORE, group), pool)
