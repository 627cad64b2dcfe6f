"""Signer, generator and KMS client against a KMS of the test's own that does what no real one would."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from config.enclave import KeyCacheSettings
from enclave import generator as generator_module
from enclave.credentials import CredentialStore
from enclave.generator import Generator
from enclave.key_cache import KeyCache
from enclave.keypair import KeyPair
from enclave.kms import KmsClient
from enclave.random_source import KmsSeeds
from enclave.sealing import seal
from enclave.signer import Signer
from protocol.errors import ErrorCode, SignerError
from protocol.messages import SealedRecord, SignItem
from protocol.statement import KeyStatement, KmsKey
from tests.enclave.parts import Switch, Time, make_nsm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.recipient import RecipientSource

KMS_KEY = KmsKey(partition="aws", account="000000000000", key_id="1234")
DATA_KEY = bytes(range(32))
KEY = KeyPair(bytes(31) + b"\x01")
OTHER = bytes(31) + b"\x02"


class YieldingKms:
    """Opens everything to one known data key, as an attacker of KMS would wish."""

    def __init__(self) -> None:
        self.given: list[bytearray] = []

    def _give(self, data: bytes) -> bytearray:
        self.given.append(bytearray(data))
        return self.given[-1]

    async def decrypt(self, blob: bytes, context: Mapping[str, str]) -> bytearray:
        """Open anything."""
        del blob, context
        return self._give(DATA_KEY)

    async def generate_data_key(self, context: Mapping[str, str]) -> tuple[bytes, bytearray]:
        """Make the one data key."""
        del context
        return b"blob", self._give(DATA_KEY)

    async def generate_random(self, count_bytes: int) -> bytearray:
        """Not random at all."""
        return bytearray(count_bytes)


def sealed(private_key: bytes) -> SealedRecord:
    """Return a record that opens, of a statement that names `KEY`."""
    statement = KeyStatement(userid="u1", public_key=KEY.public_key, kms_key=KMS_KEY).to_bytes()
    return SealedRecord(
        statement=statement, sealed_key=seal(private_key, DATA_KEY, bytes(12), statement), encrypted_data_key=b"blob"
    )


def signer_of(kms: YieldingKms) -> Signer:
    """Make a signer."""
    return Signer(cast("KmsClient", kms), KeyCache(KeyCacheSettings(), Time()), KMS_KEY)


async def test_the_public_key_is_recomputed() -> None:
    """A record whose key opens, but is not the one that the statement names, is never signed with."""
    with pytest.raises(SignerError) as refused:
        await signer_of(YieldingKms()).sign(SignItem(userid="u1", record=sealed(OTHER), message=b"m"))
    assert refused.value.code is ErrorCode.RECORD_REFUSED


async def test_a_sealed_number_that_is_no_key() -> None:
    """Zero opens and is refused."""
    with pytest.raises(SignerError) as refused:
        await signer_of(YieldingKms()).sign(SignItem(userid="u1", record=sealed(bytes(32)), message=b"m"))
    assert refused.value.code is ErrorCode.RECORD_REFUSED


async def test_data_keys_are_wiped_after_use() -> None:
    """Whether the record opened or not."""
    kms = YieldingKms()
    signer = signer_of(kms)
    good = sealed(bytes(31) + b"\x01")
    assert await signer.sign(SignItem(userid="u1", record=good, message=b"m"))
    bad = good.model_copy(update={"sealed_key": bytes(60)})
    with pytest.raises(SignerError):
        await signer.sign(SignItem(userid="u1", record=bad, message=b"m"))
    assert kms.given == [bytearray(32), bytearray(32)]


async def test_a_number_that_is_no_key_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in 2**127 keys."""
    time = Time()
    nsm = make_nsm(Switch(time))
    kms = YieldingKms()
    drawn = iter([None, None, bytes(31) + b"\x01"])
    monkeypatch.setattr(generator_module, "derive_private_key", lambda *_: next(drawn))
    client = cast("KmsClient", kms)
    key = await Generator(client, nsm, KmsSeeds(client), KMS_KEY).generate("u1")
    nsm.close()
    assert KeyStatement.from_bytes(key.record.statement).public_key == KEY.public_key
    assert kms.given == [bytearray(32)]


async def test_credentials_that_expire_while_a_request_is_at_work() -> None:
    """KMS is not called with them."""
    client = KmsClient(object(), object(), "arn", CredentialStore(Time()), cast("RecipientSource", object()))
    with pytest.raises(SignerError) as refused:
        client._borrow_credentials()
    assert refused.value.code is ErrorCode.NOT_READY
