"""A generator and a signer as ordinary processes with the stand-in NSM; the attesting KMS and a relay in this one."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from config.keypolicy import AllowedImages
from local.child import start_child
from local.enclave import measure_enclave
from local.kms import AttestingKms, Credentials, KmsAccount, KmsSettings, ensure_key, provision_roles
from local.measured_configs import MeasuredConfigInputs, write_toml
from local.nitro_authority import NitroAuthority
from local.tls import kms_tls
from protocol.address import UnixAddress
from protocol.channel import Channel, open_channel
from protocol.clock import system_clock
from protocol.errors import SignerError
from protocol.messages import (
    Generate,
    GenerateItem,
    GenerateResult,
    Role,
    SealedRecord,
    SetCredentials,
    Sign,
    SignItem,
    SignResult,
)

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Enclave:
    """A running enclave: its channel and the id of its one server process."""

    channel: Channel
    pid: int

    def resident_mb(self) -> float:
        """Return the memory of the server process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


async def make_keys(channel: Channel, users: int) -> dict[str, SealedRecord]:
    """Have keys made; return their records by user id."""
    request = Generate(items=tuple(GenerateItem(userid=f"u{number}") for number in range(users)))
    result = await channel.call(request, timeout_s=_TIMEOUT_S)
    assert isinstance(result, GenerateResult)
    return {f"u{number}": item.key.record for number, item in enumerate(result.results) if item.key is not None}


async def sign_batches(
    channel: Channel, records: dict[str, SealedRecord], count: int, batch: int, in_flight: int
) -> None:
    """Have so many messages signed, by all users in turn."""
    users = list(records)
    batches = iter(range(count // batch))

    async def work() -> None:
        for number in batches:
            items = []
            for place in range(batch):
                user = users[(number * batch + place) % len(users)]
                items.append(SignItem(userid=user, record=records[user], message=number.to_bytes(8, "big") + b"x"))
            while items:
                result = await channel.call(Sign(items=tuple(items)), timeout_s=_TIMEOUT_S)
                assert isinstance(result, SignResult)
                failed = [(item, of.error) for item, of in zip(items, result.results, strict=True) if of.error]
                assert all(error.retryable for _, error in failed), failed  # a busy machine may pass a deadline
                items = [item for item, _ in failed]

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())


@contextlib.asynccontextmanager
async def run_enclaves(folder: Path, settings: str = "") -> AsyncGenerator[tuple[Enclave, Enclave], None]:
    """Start both, with further lines of their measured configuration; yield generator and signer."""
    authority = NitroAuthority.in_folder(folder / "nitro", now_s=system_clock())
    place = KmsAccount(folder / "kms")
    key_arn = ensure_key(place, now_s=system_clock())
    authorities = kms_tls(place.state_dir, place.region, now_s=system_clock()).ca_bundle
    inputs = MeasuredConfigInputs(kms_key_arn=key_arn, kms_ca_pem=authorities.read_text())
    proxy = UnixAddress(str(folder / "proxy"))
    images: dict[Role, AllowedImages] = {}
    for role in Role:
        listen = UnixAddress(str(folder / role.value))
        text = write_toml(inputs, role, listen=listen, kms_proxy=proxy) + settings
        (folder / f"{role}.toml").write_text(text)
        images[role] = AllowedImages((measure_enclave(text.encode()).pcr0.hex(),))
    access = provision_roles(place, key_arn, generator_images=images[Role.GENERATOR], signer_images=images[Role.SIGNER])
    kms_settings = KmsSettings(state_dir=place.state_dir, nitro_roots=[authority.trust_root])
    kms = AttestingKms(kms_settings, clock=system_clock, write_audit=lambda _: None)
    async with (
        kms,
        _relay(proxy, kms.port),
        _enclave(folder, Role.GENERATOR, access.generator) as generator,
        _enclave(folder, Role.SIGNER, access.signer) as signer,
    ):
        yield generator, signer


@contextlib.asynccontextmanager
async def _enclave(folder: Path, role: Role, credentials: Credentials) -> AsyncGenerator[Enclave, None]:
    command = [sys.executable, "-m", "local.enclave", str(folder / f"{role}.toml"), "--state", str(folder / "nitro")]
    child = await start_child(role.value, command, environ={"PATH": os.environ["PATH"]})
    try:
        async with _greeted(UnixAddress(str(folder / role.value))) as channel:
            pushed = SetCredentials(
                access_key_id=credentials.access_key_id,
                secret_access_key=credentials.secret_access_key,
                session_token=credentials.session_token,
                expires_at_s=None,
            )
            await channel.call(pushed, timeout_s=_TIMEOUT_S)
            [pid] = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            yield Enclave(channel, int(pid))
    finally:
        await child.stop(timeout_s=10)


@contextlib.asynccontextmanager
async def _greeted(address: UnixAddress) -> AsyncGenerator[Channel, None]:
    async with asyncio.timeout(_TIMEOUT_S):
        while True:
            with contextlib.suppress(SignerError):
                async with open_channel(address, software="soak", timeout_s=_TIMEOUT_S) as channel:
                    if channel.hello.reason != "starting":
                        break
            await asyncio.sleep(0.05)
    async with open_channel(address, software="soak", timeout_s=_TIMEOUT_S) as channel:
        yield channel


@contextlib.asynccontextmanager
async def _relay(address: UnixAddress, port: int) -> AsyncGenerator[None, None]:
    """Carry bytes between the enclaves and KMS, as a vsock-proxy does."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kms_reader, kms_writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(reader, kms_writer))
            group.create_task(copy(kms_reader, writer))

    async with await asyncio.start_unix_server(relay, address.path):
        yield
