"""Keys whose births a stand-in NSM has certified."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import pytest

from enclave.nsm_codec import attestation
from local.measurements import measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from protocol.birth import BirthCertificate, birth_user_data
from protocol.keyproof import KeyProof
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from protocol.messages import SealedRecord
from protocol.statement import KeyStatement, KmsKey
from workers.keys.proof_check import Demands

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW_S = 1_790_000_000.25
KMS_KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"


PCR0 = measure(b"config", b"code").pcr0


@pytest.fixture(scope="package")
def authority() -> NitroAuthority:
    """Give the root of the hardware."""
    return NitroAuthority.create(now_s=NOW_S)


@pytest.fixture(scope="package")
def nsm(authority: NitroAuthority) -> StandInNsm:
    """Give the module of one generator enclave."""
    return StandInNsm(authority, measure(b"config", b"code"), clock=lambda: NOW_S)


@pytest.fixture(scope="package")
def demands(authority: NitroAuthority) -> Demands:
    """Give what an auditor of this generator demands."""
    return Demands(authority.trust_root, frozenset({PCR0}))


@pytest.fixture(scope="package")
def make_birth(nsm: StandInNsm) -> Callable[[str], tuple[KeyRecord, BirthCertificate]]:
    """Give what stands for the generator: statements and certificates are real, the sealing is not."""

    def make(userid: str) -> tuple[KeyRecord, BirthCertificate]:
        statement = KeyStatement(
            userid=userid,
            public_key=hashlib.sha512(userid.encode()).digest(),
            kms_key=KmsKey(partition="aws", account="111122223333", key_id=KMS_KEY_ID),
        ).to_bytes()
        sealed = SealedRecord(statement=statement, sealed_key=userid.encode(), encrypted_data_key=b"data key")
        record = KeyRecord.of(
            sealed,
            kms_key=f"arn:aws:kms:eu-west-1:111122223333:key/{KMS_KEY_ID}",
            created_at="2026-09-21T14:13:20Z",
            job_id=f"g-{userid}",
        )
        sealed_sha256 = sealed_record_sha256(sealed)
        exchange = attestation(user_data=birth_user_data(statement, sealed_sha256), nonce=None, public_key=None)
        document = exchange.read(nsm(exchange.request))
        return record, BirthCertificate(statement=statement, sealed_sha256=sealed_sha256, document=document)

    return make


@pytest.fixture(scope="package")
def make_proof(make_birth: Callable[[str], tuple[KeyRecord, BirthCertificate]]) -> Callable[[str], KeyProof]:
    """Give what makes the proof of the key of a user id."""

    @functools.cache
    def make(userid: str) -> KeyProof:
        record, certificate = make_birth(userid)
        return KeyProof.of(record, certificate.to_base64())

    return make


@pytest.fixture
def root_pem(authority: NitroAuthority, tmp_path: Path) -> str:
    """Give the path of the root certificate."""
    path = tmp_path / "root.pem"
    path.write_bytes(authority.certificate_pem)
    return str(path)
