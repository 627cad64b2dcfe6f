"""An attesting KMS with its roles, enclaves to call it from, and an opener of envelopes that shares no code with it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from asn1crypto import cms
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.keypolicy import AllowedImages
from local.kms import (
    AttestingKms,
    Credentials,
    KmsAccount,
    KmsFaults,
    KmsSettings,
    RoleAccess,
    ensure_key,
    provision_roles,
)
from local.measurements import DEBUG_MEASUREMENTS, Measurements, measure
from local.nitro_document import make_document
from protocol.clock import system_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from local.nitro_authority import NitroAuthority

REGION, ACCOUNT = "us-east-1", "000000000000"
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
STRANGER = Credentials("AKIASTRANGER", "any secret", "")
GENERATOR, SIGNER, OTHER = (measure(role, b"code") for role in (b"generator", b"signer", b"other"))
DEBUG = DEBUG_MEASUREMENTS
RECIPIENT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def spki(key: Any) -> bytes:
    """Return the SubjectPublicKeyInfo of a private key."""
    return cast("bytes", key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


class ShiftedClock:
    """The time of this machine plus what the test says: clients sign with the machine's."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def __call__(self) -> float:
        """Return seconds since the Unix epoch."""
        return system_clock() + self.shift_s


def open_independently(envelope: bytes, key: rsa.RSAPrivateKey = RECIPIENT_KEY) -> bytes:
    """Open an envelope with asn1crypto and cryptography."""
    content = cms.ContentInfo.load(envelope, strict=True)["content"]
    recipient = content["recipient_infos"][0].chosen
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    content_key = key.decrypt(recipient["encrypted_key"].native, oaep)
    encrypted = content["encrypted_content_info"]
    vector = encrypted["content_encryption_algorithm"]["parameters"].native
    decryptor = Cipher(algorithms.AES256(content_key), modes.CBC(vector)).decryptor()
    padded = decryptor.update(encrypted["encrypted_content"].native) + decryptor.finalize()
    return padded[: -padded[-1]]


async def refusal(call: Any) -> tuple[str, str]:
    """Await a call that must fail; return the code and text of its error."""
    try:
        await call
    except ClientError as error:
        return str(error.response["Error"]["Code"]), str(error.response["Error"]["Message"])
    raise AssertionError("the call was not refused")


@dataclass
class Rig:
    """Everything that a test of the stand-in needs."""

    state: Path
    authority: NitroAuthority
    clock: ShiftedClock = field(default_factory=ShiftedClock)
    audit: list[str] = field(default_factory=list)
    access: RoleAccess = field(init=False)
    key_arn: str = field(init=False)
    kms: AttestingKms = field(init=False)

    @property
    def place(self) -> KmsAccount:
        """The state folder with its account."""
        return KmsAccount(self.state, REGION, ACCOUNT)

    def provision(self) -> None:
        """Make key, roles and policies for the two images."""
        self.key_arn = ensure_key(self.place, now_s=self.clock())
        self.access = provision_roles(
            self.place,
            self.key_arn,
            generator_images=AllowedImages((GENERATOR.pcr0.hex(),)),
            signer_images=AllowedImages((SIGNER.pcr0.hex(),)),
        )

    @contextlib.asynccontextmanager
    async def serve(self, **settings: Any) -> AsyncIterator[AttestingKms]:
        """Run the server on what the state folder has."""
        complete = KmsSettings(
            **{"state_dir": self.state, "nitro_roots": [self.authority.trust_root], "region": REGION, **settings}
        )
        async with AttestingKms(complete, clock=self.clock, write_audit=self.audit.append) as kms:
            self.kms = kms
            yield kms

    @contextlib.asynccontextmanager
    async def client(self, credentials: Credentials = STRANGER, **options: Any) -> AsyncIterator[Any]:
        """Give an AWS client of the running server."""
        async with get_session().create_client(
            "kms",
            **{
                "region_name": REGION,
                "endpoint_url": self.kms.endpoint_url,
                "verify": str(self.kms.ca_bundle),
                "aws_access_key_id": credentials.access_key_id,
                "aws_secret_access_key": credentials.secret_access_key,
                "aws_session_token": credentials.session_token or None,
                "config": AioConfig(retries={"total_max_attempts": 1}, parameter_validation=False),
                **options,
            },
        ) as client:
            yield client

    def document(self, image: Measurements, **changes: Any) -> bytes:
        """Return an attestation document of an enclave of this image."""
        now_s = self.clock()
        fields: dict[str, Any] = {
            "module_id": MODULE_ID,
            "time_s": now_s,
            "pcrs": {0: image.pcr0, 1: image.pcr1, 2: image.pcr2, 3: bytes(48), 4: b"\x04" * 48, 8: bytes(48)},
            "public_key": spki(RECIPIENT_KEY),
            "user_data": None,
            "nonce": None,
        }
        fields |= changes
        return make_document(self.authority.issue_signer(MODULE_ID, now_s=now_s), **fields)

    def recipient(self, image: Measurements, **changes: Any) -> dict[str, Any]:
        """Return the `Recipient` of a call from an enclave of this image."""
        return {
            "AttestationDocument": self.document(image, **changes),
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        }

    def events(self) -> list[dict[str, Any]]:
        """Return the audit lines so far."""
        return [json.loads(line) for line in self.audit]

    def faulty(self, **faults: Any) -> Any:
        """Run the server with faults."""
        return self.serve(faults=KmsFaults(**faults))
