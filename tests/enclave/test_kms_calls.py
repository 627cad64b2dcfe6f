"""What the KMS client asks and what it takes for an answer, against a KMS that says whatever the test wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.enclave import KeyCacheSettings
from enclave import generator as generator_module
from enclave import kms as kms_module
from enclave import signer as signer_module
from enclave.credentials import CredentialStore
from enclave.generator import Generator
from enclave.key_cache import KeyCache
from enclave.keypair import derive_private_key
from enclave.kms import KmsClient
from enclave.random_source import KmsSeeds
from enclave.recipient import Recipient
from enclave.sealing import open_sealed
from enclave.signer import Signer
from local.kms.envelope import EnvelopeRecipient
from protocol.errors import ErrorCode, SignerError
from protocol.messages import SetCredentials, SignItem
from protocol.statement import KmsKey
from tests.enclave.parts import Switch, Time, make_nsm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from enclave.recipient import RecipientSource

ARN = "arn:aws:kms:us-east-1:000000000000:key/1234"
ANOTHER_ARN = "arn:aws:kms:us-east-1:000000000000:key/another"
CONTEXT = {"userid": "u1", "statement_sha256": "00"}
DATA_KEY = bytes(range(1, 33))
RECIPIENT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
DOCUMENT = b"an attestation document"


class _OneRecipient:
    async def current(self) -> Recipient:
        return Recipient(DOCUMENT, RECIPIENT_KEY)


class ScriptedKms:
    """The three operations of an aiobotocore client: keeps what it was asked, and answers under `key_id`."""

    def __init__(self) -> None:
        self.key_id = ARN
        self.blob: bytes | None = b"blob"
        self.asked: list[dict[str, Any]] = []
        spki = RECIPIENT_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._envelope = EnvelopeRecipient.from_spki(spki)

    def _answer(self, arguments: dict[str, Any], plaintext: bytes) -> dict[str, Any]:
        self.asked.append(arguments)
        sealed = self._envelope.seal(plaintext)
        return {"KeyId": self.key_id, "CiphertextBlob": self.blob, "CiphertextForRecipient": sealed}

    async def decrypt(self, **arguments: Any) -> dict[str, Any]:
        """Open anything to the one data key."""
        return self._answer(arguments, DATA_KEY)

    async def generate_data_key(self, **arguments: Any) -> dict[str, Any]:
        """Make the one data key."""
        return self._answer(arguments, DATA_KEY)

    async def generate_random(self, **arguments: Any) -> dict[str, Any]:
        """Return bytes that are not zero."""
        return self._answer(arguments, b"\x05" * int(arguments["NumberOfBytes"]))


class _Borrowed:
    access_key = secret_key = token = ""


def client_of(scripted: ScriptedKms, time: Time, *, expires_at_s: int | None = None) -> KmsClient:
    """Return the client of an enclave that has credentials."""
    store = CredentialStore(time)
    store.replace(
        SetCredentials(access_key_id="A", secret_access_key="S", session_token="T", expires_at_s=expires_at_s)
    )
    return KmsClient(scripted, _Borrowed(), ARN, store, cast("RecipientSource", _OneRecipient()))


def remember_opened(monkeypatch: pytest.MonkeyPatch) -> list[bytearray]:
    """Return what envelopes open to, filled as they are opened."""
    opened: list[bytearray] = []
    original = kms_module._open

    def remembered(answer: dict[str, Any], recipient: Recipient) -> bytearray:
        opened.append(original(answer, recipient))
        return opened[-1]

    monkeypatch.setattr(kms_module, "_open", remembered)
    return opened


CALLS: list[tuple[Callable[[KmsClient], Awaitable[object]], dict[str, Any]]] = [
    (lambda client: client.decrypt(b"blob", CONTEXT), {"KeyId": ARN, "CiphertextBlob": b"blob"}),
    (lambda client: client.generate_data_key(CONTEXT), {"KeyId": ARN, "NumberOfBytes": 32}),
]
both_calls = pytest.mark.parametrize(("call", "arguments"), CALLS, ids=["decrypt", "generate_data_key"])


@both_calls
async def test_each_call_names_the_measured_key_the_context_and_the_document(
    call: Callable[[KmsClient], Awaitable[object]], arguments: dict[str, Any]
) -> None:
    """Without `KeyId` KMS would open a blob with whatever key made it; without `Recipient` it would answer in clear."""
    scripted = ScriptedKms()
    await call(client_of(scripted, Time()))
    recipient = {"AttestationDocument": DOCUMENT, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
    assert scripted.asked == [{**arguments, "EncryptionContext": CONTEXT, "Recipient": recipient}]


@both_calls
async def test_an_answer_of_another_key_is_refused_and_wiped(
    call: Callable[[KmsClient], Awaitable[object]], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer's own `KeyId` is checked in both calls."""
    del arguments
    opened = remember_opened(monkeypatch)
    scripted = ScriptedKms()
    scripted.key_id = ANOTHER_ARN
    with pytest.raises(SignerError) as refused:
        await call(client_of(scripted, Time()))
    assert refused.value.code is ErrorCode.KMS_WRONG_KEY
    assert opened == [bytearray(32)]


@pytest.mark.parametrize("blob", [None, b"", bytes(6145)])
async def test_a_data_key_that_could_not_be_stored_is_refused(
    blob: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its encrypted form, or with one of a size that KMS does not have, no key is sealed under it."""
    opened = remember_opened(monkeypatch)
    scripted = ScriptedKms()
    scripted.blob = blob
    with pytest.raises(SignerError) as refused:
        await client_of(scripted, Time()).generate_data_key(CONTEXT)
    assert refused.value.code is ErrorCode.KMS_BAD_ANSWER
    assert opened == [bytearray(32)]


@both_calls
async def test_expired_credentials_are_not_used(
    call: Callable[[KmsClient], Awaitable[object]], arguments: dict[str, Any]
) -> None:
    """They may run out while a request waits for its turn: KMS is not asked any more."""
    del arguments
    time, scripted = Time(), ScriptedKms()
    client = client_of(scripted, time, expires_at_s=int(time.now) + 60)
    await call(client)
    time.now += 60
    with pytest.raises(SignerError) as refused:
        await call(client)
    assert refused.value.code is ErrorCode.NOT_READY
    assert len(scripted.asked) == 1


async def test_what_can_be_wiped_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both seeds of a birth, and the private key that a record opened to, once the key pair has been made of them."""
    kms_key = KmsKey.from_arn(ARN)
    buffers: list[bytearray] = []

    def derived(kms_seed: bytearray, nsm_seed: bytearray) -> bytes | None:
        assert any(kms_seed)
        assert any(nsm_seed)
        buffers.extend((kms_seed, nsm_seed))
        return derive_private_key(kms_seed, nsm_seed)

    def opened(sealed_key: bytes, data_key: bytearray, statement: bytes) -> bytearray:
        buffers.append(open_sealed(sealed_key, data_key, statement))
        assert any(buffers[-1])
        return buffers[-1]

    monkeypatch.setattr(generator_module, "derive_private_key", derived)
    monkeypatch.setattr(signer_module, "open_sealed", opened)
    time = Time()
    nsm = make_nsm(Switch(time))
    client = client_of(ScriptedKms(), time)
    key = await Generator(client, nsm, KmsSeeds(client), kms_key).generate("u1")
    nsm.close()
    signer = Signer(client, KeyCache(KeyCacheSettings(), time), kms_key)
    assert await signer.sign(SignItem(userid="u1", record=key.record, message=b"m"))
    assert buffers == [bytearray(32)] * 3
