"""The way from the enclave to KMS belongs to the parent: it sees TLS records only, and nobody else can answer on it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from local.tls import kms_tls
from protocol.address import UnixAddress
from protocol.channel import Channel, open_channel
from protocol.clock import system_clock
from protocol.errors import ErrorCode, SignerError
from protocol.keyrecord import KeyRecord
from protocol.messages import NotReadyReason, SetCredentials, Sign, SignItem, SignResult
from tests.stack.harness import ROOT, Client

pytestmark = pytest.mark.stack

TIMEOUT_S = 30
TLS_RECORD_TYPES = {20, 21, 22, 23}  # RFC 8446 section 5.1


@contextmanager
def enclave_process(folder: Path, config: str, nitro: Path) -> Iterator[subprocess.Popen[str]]:
    """Run an enclave with this configuration until the end."""
    (folder / "signer.toml").write_text(config)
    with subprocess.Popen(
        [sys.executable, "-m", "local.enclave", str(folder / "signer.toml"), "--state", str(nitro)],
        env={"PATH": os.defpath},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0


@asynccontextmanager
async def started(address: UnixAddress) -> AsyncGenerator[Channel, None]:
    """Talk to an enclave as soon as it has started."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                async with open_channel(address, software="test", timeout_s=TIMEOUT_S) as channel:
                    if channel.hello.reason is not NotReadyReason.STARTING:
                        yield channel
                        return
            except SignerError:
                await asyncio.sleep(0.05)  # nobody listens yet


def state_of(client: Client) -> Path:
    """Return the state folder of the stack."""
    return Path(client.facts["kms_ca_bundle"]).parents[2]


def make_config(client: Client, folder: Path, ca_pem: str | None, kms_proxy: Path) -> str:
    """Return the stack's own signer configuration with another address, proxy and certificate authority."""
    ca = "" if ca_pem is None else f'kms_ca_pem = """\n{ca_pem}"""\n'
    return (
        f'role = "signer"\nkms_key_arn = "{client.facts["kms_key_arn"]}"\nkms_host = "localhost"\n'
        f'kms_proxy = "unix://{kms_proxy}"\nlisten = "unix://{folder}/signer.sock"\nprocesses = 1\n{ca}'
    )


def record_of(client: Client, userid: str) -> KeyRecord:
    """Make a key and return its record."""
    client.ask("generate", {"type": "generate", "job_id": userid, "userid": userid})
    item: dict[str, Any] = client.dynamodb.get_item(TableName=client.facts["table"], Key={"userid": {"S": userid}})
    return KeyRecord.from_item({name: value["S"] for name, value in item["Item"].items()})


async def sign_error(channel: Channel, record: KeyRecord) -> str:
    """Ask for a signature and return the code of the error."""
    credentials = SetCredentials(access_key_id="a", secret_access_key="s", session_token=None, expires_at_s=None)
    await channel.call(credentials, timeout_s=TIMEOUT_S)
    item = SignItem(userid=record.userid, record=record.record, message=b"m")
    result = await channel.call(Sign(items=(item,)), timeout_s=TIMEOUT_S)
    assert isinstance(result, SignResult)
    assert result.results[0].error is not None
    return result.results[0].error.code


class Recorder:
    """A relay on a Unix socket that keeps what the enclave sends."""

    def __init__(self, upstream: Path) -> None:
        self.upstream = upstream
        self.streams: list[bytearray] = []
        self.open = 0
        self.changed = asyncio.Condition()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry both directions until both end."""
        stream = bytearray()
        self.streams.append(stream)
        self.open += 1
        up_reader, up_writer = await asyncio.open_unix_connection(str(self.upstream))

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray) -> None:
            while data := await source.read(65536):
                kept += data
                target.write(data)
                await target.drain()
            target.close()
            await target.wait_closed()

        async with asyncio.TaskGroup() as group:
            group.create_task(carry(reader, up_writer, stream))
            group.create_task(carry(up_reader, writer, bytearray()))
        async with self.changed:
            self.open -= 1
            self.changed.notify_all()

    async def finished(self) -> None:
        """Wait until no connection is left."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.open == 0)


def assert_only_tls_records(stream: bytes) -> None:
    """A stream is a sequence of TLS records and nothing else; the last may be cut."""
    position = 0
    assert len(stream) > 5
    while position + 5 <= len(stream):
        kind, version = stream[position], stream[position + 1]
        assert kind in TLS_RECORD_TYPES
        assert version == 3
        position += 5 + int.from_bytes(stream[position + 3 : position + 5], "big")


async def test_the_parent_sees_tls_records_only(client: Client, tmp_path: Path) -> None:
    """What passes the proxy is TLS from the first byte on: no request, no document, no answer in clear text."""
    record = record_of(client, "tls-only")
    recorder = Recorder(state_of(client) / "run" / "signer-proxy.sock")
    socket_path = tmp_path / "r.sock"
    server = await asyncio.start_unix_server(recorder.relay, str(socket_path))
    config = make_config(client, tmp_path, Path(client.facts["kms_ca_bundle"]).read_text(), socket_path)
    async with server:
        with enclave_process(tmp_path, config, state_of(client) / "nitro"):
            async with started(UnixAddress(str(tmp_path / "signer.sock"))) as channel:
                code = await sign_error(channel, record)
        await recorder.finished()
    assert code == ErrorCode.KMS_DENIED  # another configuration is another PCR0: KMS was reached, and refused
    assert recorder.streams
    for stream in recorder.streams:
        assert_only_tls_records(bytes(stream))
        assert b"TrentService" not in stream


async def test_a_kms_with_another_certificate_authority_is_not_spoken_to(client: Client, tmp_path: Path) -> None:
    """With the CA of KMS replaced in the measured configuration the enclave fails closed."""
    record = record_of(client, "other-ca")
    other_ca = kms_tls(tmp_path, client.facts["region"], now_s=system_clock()).ca_bundle.read_text()
    proxy = state_of(client) / "run" / "signer-proxy.sock"
    config = make_config(client, tmp_path, other_ca, proxy)
    with enclave_process(tmp_path, config, state_of(client) / "nitro"):
        async with started(UnixAddress(str(tmp_path / "signer.sock"))) as channel:
            assert await sign_error(channel, record) == ErrorCode.KMS_UNAVAILABLE


async def test_without_a_certificate_authority_the_configuration_is_refused(client: Client, tmp_path: Path) -> None:
    """With the CA of KMS removed the enclave stays up, answers hello with the reason, and does nothing else."""
    proxy = state_of(client) / "run" / "signer-proxy.sock"
    config = make_config(client, tmp_path, None, proxy)
    with enclave_process(tmp_path, config, tmp_path) as process:
        assert process.stderr is not None
        assert "kms_ca_pem: field is missing" in process.stderr.readline()
        async with started(UnixAddress(str(tmp_path / "enclave.sock"))) as channel:
            assert channel.hello.reason is NotReadyReason.BAD_CONFIG
