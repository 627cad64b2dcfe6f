"""Both enclaves in this process, each behind a real channel, with the attesting KMS behind a relay that can be evil."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from config.enclave import MeasuredConfig
from config.keypolicy import AllowedImages
from enclave import process
from enclave.process import ProcessParts, run_process
from local.kms import AttestingKms, KmsAccount, KmsFaults, KmsSettings, RoleAccess, ensure_key, provision_roles
from local.measured_configs import MeasuredConfigInputs, write_toml
from local.measurements import Measurements, measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from local.tls import kms_tls
from protocol.address import UnixAddress
from protocol.channel import Channel, open_channel
from protocol.clock import system_clock
from protocol.errors import SignerError
from protocol.messages import (
    Digest,
    Generate,
    GeneratedKey,
    GenerateItem,
    GenerateResult,
    NotReadyReason,
    Role,
    Scheme,
    SealedRecord,
    SetCredentials,
    Sign,
    SignatureFormat,
    SignItem,
    SignItemResult,
    SignResult,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from local.kms import Credentials

TIMEOUT_S = 60.0
OTHER_KEY = "alias/other"
"""A KMS key of the same account that no configuration names."""


class Relay:
    """A Unix socket before a TCP port of loopback: what a vsock-proxy does, and a place for an evil one to stand."""

    def __init__(self, address: UnixAddress) -> None:
        self.address = address
        self.port = 0
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def drop_all(self) -> None:
        """Cut every connection, so that the next call makes a new one."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self) -> None:
        """Relay until cancelled."""
        server = await asyncio.start_unix_server(self._relay, self.address.path)
        async with server:
            await asyncio.get_running_loop().create_future()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                kms_reader, kms_writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_copy(reader, kms_writer))
                        group.create_task(_copy(kms_reader, writer))
                finally:
                    kms_writer.close()
        except asyncio.CancelledError:
            pass  # asyncio's stream server would report it as a failure
        finally:
            self._writers.discard(writer)
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@dataclass
class Stand:
    """What a test of both enclaves has at hand."""

    generator: Channel
    signer: Channel
    relay: Relay
    kms: AttestingKms
    access: RoleAccess
    key_arn: str
    authority: NitroAuthority
    measurements: dict[Role, Measurements]
    audit: list[str] = field(default_factory=list)

    async def new_key(self, userid: str) -> GeneratedKey:
        """Have a key generated."""
        result = await self.generator.call(Generate(items=(GenerateItem(userid=userid),)), timeout_s=TIMEOUT_S)
        assert isinstance(result, GenerateResult)
        [only] = result.results
        assert only.key is not None, only
        return only.key

    async def sign_items(self, *items: SignItem) -> tuple[SignItemResult, ...]:
        """Have a batch signed."""
        result = await self.signer.call(Sign(items=items), timeout_s=TIMEOUT_S)
        assert isinstance(result, SignResult)
        return result.results

    async def sign(self, userid: str, record: SealedRecord, message: bytes = b"Hello World") -> bytes:
        """Have one message signed, and expect that it is."""
        [result] = await self.sign_items(sign_item(userid, record, message))
        assert result.signature is not None, result
        return result.signature

    async def refusal(self, userid: str, record: SealedRecord) -> str:
        """Have one message signed, and expect that it is not; return the code."""
        [result] = await self.sign_items(sign_item(userid, record))
        assert result.signature is None
        assert result.error is not None
        return result.error.code


def sign_item(
    userid: str,
    record: SealedRecord,
    message: bytes = b"Hello World",
    *,
    digest: Digest = Digest.SHA256,
    scheme: Scheme = Scheme.ECDSA,
    signature_format: SignatureFormat = SignatureFormat.COMPACT,
) -> SignItem:
    """Return one item of a batch."""
    return SignItem(
        userid=userid, record=record, message=message, digest=digest, scheme=scheme, format=signature_format
    )


def set_credentials(credentials: Credentials, *, expires_in_s: int = 3600) -> SetCredentials:
    """Return credentials as the parent pushes them."""
    return SetCredentials(
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
        session_token=credentials.session_token,
        expires_at_s=int(time.time()) + expires_in_s,
    )


def without_hardening(patch: pytest.MonkeyPatch) -> None:
    """Leave the test process dumpable and swappable."""
    patch.setattr(process, "forbid_dumps", lambda: None)
    patch.setattr(process, "lock_memory", lambda: True)


@contextlib.asynccontextmanager
async def standing(
    folder: Path, *, settings: str = "", faults: KmsFaults | None = None, is_pushed: bool = True
) -> AsyncIterator[Stand]:
    """Run everything; `settings` is TOML that both measured configurations end with."""
    authority = NitroAuthority.create(now_s=system_clock())
    place = KmsAccount(folder / "kms")
    key_arn = ensure_key(place, now_s=system_clock())
    ensure_key(place, now_s=system_clock(), alias=OTHER_KEY)
    audit: list[str] = []
    authorities = kms_tls(place.state_dir, place.region, now_s=system_clock()).ca_bundle
    relay = Relay(UnixAddress(str(folder / "proxy")))
    inputs = MeasuredConfigInputs(kms_key_arn=key_arn, kms_ca_pem=authorities.read_text())
    addresses = {role: UnixAddress(str(folder / role.value)) for role in Role}
    configs = {
        role: (write_toml(inputs, role, listen=addresses[role], kms_proxy=relay.address) + settings).encode()
        for role in Role
    }
    measurements = {role: measure(config, b"code") for role, config in configs.items()}
    images = {role: AllowedImages((measured.pcr0.hex(),)) for role, measured in measurements.items()}
    access = provision_roles(place, key_arn, generator_images=images[Role.GENERATOR], signer_images=images[Role.SIGNER])
    kms_settings = KmsSettings(
        state_dir=place.state_dir, nitro_roots=[authority.trust_root], faults=faults or KmsFaults()
    )
    kms = AttestingKms(kms_settings, clock=system_clock, write_audit=audit.append)
    async with kms, asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as channels:
        relay.port = kms.port
        tasks = [group.create_task(relay.serve())]
        for role in Role:
            parts = ProcessParts(
                measured=MeasuredConfig.parse(configs[role]),
                address=addresses[role],
                processes=1,
                nsm=StandInNsm(authority, measurements[role], clock=system_clock),
                clock=system_clock,
                clock_setter=None,
                must_lock_memory=False,
            )
            tasks.append(group.create_task(run_process(parts)))
        try:
            opened = {role: await channels.enter_async_context(greeted(addresses[role])) for role in Role}
            if is_pushed:
                for role, credentials in ((Role.GENERATOR, access.generator), (Role.SIGNER, access.signer)):
                    await opened[role].call(set_credentials(credentials), timeout_s=TIMEOUT_S)
            yield Stand(
                opened[Role.GENERATOR], opened[Role.SIGNER], relay, kms, access, key_arn, authority, measurements, audit
            )
        finally:
            await channels.aclose()
            for task in tasks:
                task.cancel()


@contextlib.asynccontextmanager
async def greeted(address: UnixAddress) -> AsyncIterator[Channel]:
    """Open a channel to an enclave as soon as it has started."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                async with open_channel(address, software="test", timeout_s=TIMEOUT_S) as channel:
                    if channel.hello.reason is not NotReadyReason.STARTING:
                        break
            except SignerError:
                pass
            await asyncio.sleep(0.005)
    async with open_channel(address, software="test", timeout_s=TIMEOUT_S) as channel:
        yield channel
