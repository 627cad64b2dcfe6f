"""What the tests of the booted stack do with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from protocol.address import UnixAddress
from protocol.channel import open_channel
from protocol.errors import SignerError
from protocol.messages import NotReadyReason, SetCredentials
from protocol.version import SOFTWARE
from tests.stack.harness import Client
from tests.vm.enclaves import ENCLAVE_PORT, PROXY_PORT
from tests.vm.guest import run_guest
from tests.vm.images import write_image
from tests.vm.machine import Paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from local.kms import Credentials
    from local.measurements import Measurements
    from local.stack import LocalStack
    from protocol.address import Address
    from protocol.channel import Channel
    from protocol.messages import Role
    from tests.vm.cache import Cache
    from tests.vm.enclaves import VirtualMachinePlatform

PATIENCE_S: Final = 900.0
"""For anything that an emulated machine does on two shared processors."""

_OTHER_CID: Final = 18
_LOOK_AGAIN_S: Final = 0.2


class _PatientClient(Client):
    empty_polls = int(PATIENCE_S / 2)


@dataclass(frozen=True, slots=True)
class Stand:
    """A running stack and the way to its parts."""

    local: LocalStack
    platform: VirtualMachinePlatform
    cache: Cache

    @property
    def client(self) -> Client:
        """Plain boto3, as a user has it, and patient."""
        return _PatientClient(asdict(self.local.facts))

    def kms(self, credentials: Credentials) -> Any:
        """Return a KMS client with the credentials of an instance."""
        facts = self.local.facts
        return boto3.client(
            "kms",
            region_name=facts.region,
            endpoint_url=facts.kms_endpoint_url,
            verify=facts.kms_ca_bundle,
            aws_access_key_id=credentials.access_key_id,
            aws_secret_access_key=credentials.secret_access_key,
            aws_session_token=credentials.session_token,
        )

    def enclave(self, role: Role) -> contextlib.AbstractAsyncContextManager[Channel]:
        """Return a connection to one of the two enclaves."""
        return open_channel(self.local.layout.enclave_address(role), software=SOFTWARE, timeout_s=PATIENCE_S)

    def log(self, name: str) -> str:
        """Return what a program of the stack has printed so far."""
        return self.local.layout.log(name).read_text()

    @contextlib.asynccontextmanager
    async def another_image(self, config: str, role: Role) -> AsyncIterator[tuple[Measurements, Channel]]:
        """Boot an image beside the two, with the proxy and the credentials of a role; yield what it measures."""
        layout = self.local.layout
        image = layout.state / "other.eif"
        measured = write_image(self.platform.parts.enclave_image(config.encode()), image)
        paths = Paths(layout.run, "other")
        dialled = paths.parent_port(PROXY_PORT)
        dialled.unlink(missing_ok=True)
        dialled.symlink_to(layout.run / f"{role}-proxy.sock")
        listen = layout.run / "other.sock"
        async with asyncio.TaskGroup() as group:
            guest = group.create_task(
                run_guest(self.cache, image, paths, cid=_OTHER_CID, listen=listen, port=ENCLAVE_PORT)
            )
            async with started(UnixAddress(str(listen))) as channel:
                credentials = self.local.foundation.credentials[role]
                await channel.call(
                    SetCredentials(
                        access_key_id=credentials.access_key_id,
                        secret_access_key=credentials.secret_access_key,
                        session_token=credentials.session_token,
                        expires_at_s=None,
                    ),
                    timeout_s=PATIENCE_S,
                )
                yield measured, channel
            guest.cancel()


@contextlib.asynccontextmanager
async def started(address: Address) -> AsyncIterator[Channel]:
    """Connect to an enclave as soon as it works or lacks nothing but credentials."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(SignerError):
                async with open_channel(address, software=SOFTWARE, timeout_s=PATIENCE_S) as channel:
                    if channel.hello.reason in {None, NotReadyReason.NO_CREDENTIALS}:
                        break
            await asyncio.sleep(_LOOK_AGAIN_S)
    async with open_channel(address, software=SOFTWARE, timeout_s=PATIENCE_S) as channel:
        yield channel


def verify_signature(public_key: str, signature: str, message: bytes) -> None:
    """Check r||s with another library than the one that signed.

    Raises:
        InvalidSignature: it is not of this key and message.
    """
    data = bytes.fromhex(signature)
    r, s = int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big")
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), b"\x04" + bytes.fromhex(public_key))
    point.verify(encode_dss_signature(r, s), hashlib.sha256(message).digest(), ec.ECDSA(Prehashed(SHA256())))
