"""The workload that the vsock-proxy is for: attested Decrypts at the stand-in KMS, over a route."""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.keypolicy import AllowedImages
from enclave.nsm import Nsm
from enclave.proxy_socket import connector_args
from local.kms import Credentials, KmsAccount, ensure_key, provision_roles
from local.measurements import Measurements
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.address import UnixAddress
from protocol.clock import system_clock

_REGION = "us-east-1"
_CONTEXT = {"userid": "benchmark"}
_KEEPALIVE_S = 60.0


@dataclass(frozen=True, slots=True)
class KmsUnderLoad:
    """A running stand-in KMS and what one Decrypt needs."""

    port: int
    ca_bundle: str
    signer: Credentials
    arguments: dict[str, Any]


@contextlib.contextmanager
def start_kms(folder: Path) -> Generator[KmsUnderLoad]:
    """Run the stand-in KMS as a child process, with a data key that the signer's image may open."""
    authority = NitroAuthority.in_folder(folder / "nitro", now_s=system_clock())
    root = folder / "root.pem"
    root.write_bytes(authority.certificate_pem)
    generator, signer = _image("generator"), _image("signer")
    account = KmsAccount(folder / "kms", region=_REGION)
    key_arn = ensure_key(account, now_s=system_clock())
    access = provision_roles(
        account,
        key_arn,
        generator_images=AllowedImages((generator.pcr0.hex(),)),
        signer_images=AllowedImages((signer.pcr0.hex(),)),
    )
    command = [sys.executable, "-m", "local.kms", "--state", str(folder / "kms"), "--nitro-root", str(root)]
    command += ["--audit-file", str(folder / "audit.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        made = asyncio.run(_data_key(ready, key_arn, access.generator, _recipient(authority, generator)))
        arguments = {
            "KeyId": key_arn,
            "CiphertextBlob": made["CiphertextBlob"],
            "EncryptionContext": _CONTEXT,
            "Recipient": _recipient(authority, signer),
        }
        yield KmsUnderLoad(ready["port"], ready["ca_bundle"], access.signer, arguments)
        process.terminate()


def _image(name: str) -> Measurements:
    return Measurements(*(hashlib.sha384(f"{name} {index}".encode()).digest() for index in range(3)))


def _recipient(authority: NitroAuthority, image: Measurements) -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    async def attest() -> bytes:
        nsm = Nsm(StandInNsm(authority, image, clock=system_clock))
        try:
            return await nsm.attest(user_data=None, nonce=None, public_key=spki)
        finally:
            nsm.close()

    return {"AttestationDocument": asyncio.run(attest()), "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}


async def _data_key(
    ready: dict[str, Any], key_arn: str, credentials: Credentials, recipient: dict[str, Any]
) -> dict[str, Any]:
    async with _client(ready["port"], ready["ca_bundle"], credentials, path=None, connections=1) as kms:
        answer: dict[str, Any] = await kms.generate_data_key(
            KeyId=key_arn, NumberOfBytes=32, EncryptionContext=_CONTEXT, Recipient=recipient
        )
        return answer


@contextlib.asynccontextmanager
async def _client(
    port: int, ca_bundle: str, credentials: Credentials, *, path: str | None, connections: int
) -> AsyncGenerator[Any]:
    session = get_session()
    session.set_credentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    config = AioConfig(
        max_pool_connections=connections,
        connector_args=None if path is None else connector_args(UnixAddress(path), keepalive_s=_KEEPALIVE_S),
        retries={"total_max_attempts": 1},
        parameter_validation=False,
    )
    async with session.create_client(
        "kms", region_name=_REGION, endpoint_url=f"https://localhost:{port}", verify=ca_bundle, config=config
    ) as kms:
        yield kms


async def attested_decrypts(kms: KmsUnderLoad, path: str | None, concurrency: int, calls: int) -> list[float]:
    """Call Decrypt so often, so many at a time, directly or through a forwarder's socket; seconds of each call.

    Every connection is made and used once before the clock starts: an enclave keeps its connections.
    """
    took: list[float] = []
    everybody = asyncio.Barrier(concurrency)
    async with _client(kms.port, kms.ca_bundle, kms.signer, path=path, connections=concurrency) as client:

        async def caller() -> None:
            await everybody.wait()
            await client.decrypt(**kms.arguments)
            await everybody.wait()
            for _ in range(max(1, calls // concurrency)):
                began = time.perf_counter()
                await client.decrypt(**kms.arguments)
                took.append(time.perf_counter() - began)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(caller())
    return took
