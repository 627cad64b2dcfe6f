"""The flow of `nitro-local demo` over real AF_VSOCK, with the documents of a real driver: it works, attacks do not."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from local.foundation import ACCOUNT
from local.kms import Credentials
from local.kms.principals import local_user_arn
from local.kms.provision import GENERATOR_ROLE, role_arn
from local.known_flaw import flawed_key_policy
from local.resources import error_code
from protocol.attestation import AttestationError, FailedCheck, TrustRoot, parse_document
from protocol.birth import BirthCertificate, birth_user_data
from protocol.birth_verification import BirthRefusedError, verify_birth
from protocol.errors import ErrorCode, SignerError
from protocol.messages import (
    Attest,
    AttestResult,
    Generate,
    GenerateItem,
    GenerateResult,
    Role,
    SealedRecord,
    Sign,
    SignItem,
    SignResult,
)
from protocol.statement import encryption_context
from tests.vm.documents import fields_of
from tests.vm.forged import forged_recipient
from tests.vm.stand import PATIENCE_S, Stand, verify_signature

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600), pytest.mark.asyncio(loop_scope="session")]

MESSAGE = "Hello World"
_ANYBODY = Credentials("local", "local", "local")
_SWAPPED = ("encrypted_privatekey", "publickey", "encrypted_datakey", "statement")


def row_of(stand: Stand, userid: str) -> dict[str, Any]:
    """Return a stored key record."""
    client = stand.client
    found = client.dynamodb.get_item(
        TableName=stand.local.facts.table, Key={"userid": {"S": userid}}, ConsistentRead=True
    )
    item: dict[str, Any] = found["Item"]
    return item


def record_in(row: dict[str, Any]) -> SealedRecord:
    """Return what the signer is given of a row."""
    return SealedRecord(
        statement=base64.b64decode(row["statement"]["S"]),
        sealed_key=base64.b64decode(row["encrypted_privatekey"]["S"]),
        encrypted_data_key=base64.b64decode(row["encrypted_datakey"]["S"]),
    )


def birth(stand: Stand, userid: str) -> dict[str, Any]:
    """Have a key made; return the reply."""
    reply = stand.client.ask("generate", {"type": "generate", "job_id": f"g-{userid}", "userid": userid})
    assert reply["status"] == "ok", json.dumps(reply)
    return reply


def sign(stand: Stand, userid: str, job_id: str) -> dict[str, Any]:
    """Have the message signed; return the reply."""
    return stand.client.ask("sign", {"type": "sign", "job_id": job_id, "userid": userid, "message": MESSAGE})


def expect_denied(call: Callable[..., object], **arguments: Any) -> None:
    """Check that KMS refuses by its policies, and for no other reason."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert error_code(caught.value) == "AccessDeniedException"


@pytest.mark.parametrize("role", list(Role))
async def test_the_machine_measures_what_our_reader_predicts(stand: Stand, role: Role) -> None:
    """PCR0, PCR1 and PCR2 of the file, computed here, are those in a document of the device."""
    predicted = stand.local.foundation.images[role]
    async with stand.enclave(role) as channel:
        assert channel.hello.enclave.pcr0 == predicted.pcr0
        answer = await channel.call(Attest(nonce=bytes(16)), timeout_s=PATIENCE_S)
    assert isinstance(answer, AttestResult)
    pcrs = fields_of(answer.document)["pcrs"]
    assert (pcrs[0], pcrs[1], pcrs[2]) == (predicted.pcr0, predicted.pcr1, predicted.pcr2)
    assert sorted(pcrs) == list(range(16))


async def test_a_key_is_born_and_signs(stand: Stand) -> None:
    """The whole way; the signature verifies with another library, and the same job gives the same one again."""
    born = birth(stand, "u001")
    signed = sign(stand, "u001", "s-1")
    assert (signed["status"], signed["verified"]) == ("ok", True), signed
    verify_signature(born["publickey"], signed["signature"], MESSAGE.encode())
    assert sign(stand, "u001", "s-2")["signature"] == signed["signature"]


async def test_the_birth_certificate_is_whole_and_no_client_believes_it(stand: Stand) -> None:
    """It binds statement and sealed key, from the generator's image. Nobody signed it, so our verifier refuses it."""
    born = birth(stand, "u-birth")
    certificate = BirthCertificate.from_base64(born["birth_certificate"])
    fields = fields_of(certificate.document)
    assert fields["pcrs"][0] == stand.local.foundation.pcr0[Role.GENERATOR]
    assert fields["user_data"] == birth_user_data(certificate.statement, certificate.sealed_sha256)
    assert fields["public_key"] is None
    with pytest.raises(BirthRefusedError, match="protected header is not exactly the algorithm ES384"):
        verify_birth(
            certificate,
            root=TrustRoot.from_pem(stand.local.layout.nitro_root.read_bytes()),
            pcr0={stand.local.foundation.pcr0[Role.GENERATOR]},
            userid="u-birth",
            public_key=bytes.fromhex(born["publickey"]),
        )
    with pytest.raises(AttestationError) as refused:
        parse_document(certificate.document)
    assert refused.value.check is FailedCheck.STRUCTURE


async def test_without_attestation_kms_refuses_even_the_signers_own_credentials(stand: Stand) -> None:
    """Whoever owns the parent has these credentials."""
    birth(stand, "u-plain")
    row = row_of(stand, "u-plain")
    kms = stand.kms(stand.local.foundation.credentials[Role.SIGNER])
    expect_denied(
        kms.decrypt,
        CiphertextBlob=base64.b64decode(row["encrypted_datakey"]["S"]),
        EncryptionContext=encryption_context("u-plain", base64.b64decode(row["statement"]["S"])),
        KeyId=stand.local.facts.kms_key_arn,
    )


async def test_a_swapped_row_is_refused_by_worker_and_enclave(stand: Stand) -> None:
    """No signature by another user's key: not through the worker, and not by asking the enclave itself."""
    birth(stand, "u-a")
    victim = birth(stand, "u-b")
    stolen, own = row_of(stand, "u-a"), row_of(stand, "u-b")
    table = stand.local.facts.table
    stand.client.dynamodb.put_item(TableName=table, Item={**own, **{name: stolen[name] for name in _SWAPPED}})
    refused = sign(stand, "u-b", "s-swapped")
    assert (refused["status"], refused["error"]["code"]) == ("error", "record_refused")
    item = SignItem(userid="u-b", record=record_in(stolen), message=MESSAGE.encode())
    async with stand.enclave(Role.SIGNER) as channel:
        answer = await channel.call(Sign(items=(item,)), timeout_s=PATIENCE_S)
    assert isinstance(answer, SignResult)
    assert answer.results[0].error is not None
    assert answer.results[0].error.code == ErrorCode.RECORD_REFUSED
    stand.client.dynamodb.put_item(TableName=table, Item=own)
    verify_signature(victim["publickey"], sign(stand, "u-b", "s-mended")["signature"], MESSAGE.encode())


async def test_the_signer_cannot_generate(stand: Stand) -> None:
    """Its program refuses; and KMS makes no data key for its PCR0, not even with the generator's credentials."""
    async with stand.enclave(Role.SIGNER) as channel:
        with pytest.raises(SignerError) as refused:
            await channel.call(Generate(items=(GenerateItem(userid="u-x"),)), timeout_s=PATIENCE_S)
        assert refused.value.code is ErrorCode.NOT_ALLOWED
    foundation = stand.local.foundation
    kms = stand.kms(foundation.credentials[Role.GENERATOR])
    arguments = {"KeyId": foundation.kms_key_arn, "NumberOfBytes": 32}
    expect_denied(kms.generate_data_key, **arguments, Recipient=forged_recipient(foundation.images[Role.SIGNER]))
    # The other way round it works, so what was refused is the image.
    answer = kms.generate_data_key(**arguments, Recipient=forged_recipient(foundation.images[Role.GENERATOR]))
    assert answer["CiphertextForRecipient"]


async def test_a_changed_image_is_denied_and_the_flawed_policy_lets_it_in(stand: Stand) -> None:
    """Our policy denies another image a data key; that of the best-known demo, whose Deny names other PCRs, does not.

    The other image boots, and is denied with a document of its own device.
    """
    foundation = stand.local.foundation
    config = stand.local.layout.enclave_config(Role.GENERATOR).read_text()
    async with stand.another_image(f"{config}# one more line\n", Role.GENERATOR) as (measured, channel):
        assert measured.pcr1 == foundation.images[Role.GENERATOR].pcr1
        assert channel.hello.enclave.pcr0 == measured.pcr0 != foundation.pcr0[Role.GENERATOR]
        answer = await channel.call(Generate(items=(GenerateItem(userid="u-other"),)), timeout_s=PATIENCE_S)
        assert isinstance(answer, GenerateResult)
        assert answer.results[0].error is not None
        assert answer.results[0].error.code == ErrorCode.KMS_DENIED
    flawed = flawed_key_policy(
        role_arn=role_arn(ACCOUNT, GENERATOR_ROLE),
        admin_arn=local_user_arn(ACCOUNT),
        image=foundation.images[Role.GENERATOR],
    )
    key_arn = stand.kms(_ANYBODY).create_key(Policy=flawed)["KeyMetadata"]["Arn"]
    # By hand: the production program asks for randomness first, which the role's own policy denies this image.
    kms, recipient = stand.kms(foundation.credentials[Role.GENERATOR]), forged_recipient(measured)
    expect_denied(kms.generate_data_key, KeyId=foundation.kms_key_arn, NumberOfBytes=32, Recipient=recipient)
    assert kms.generate_data_key(KeyId=key_arn, NumberOfBytes=32, Recipient=recipient)["CiphertextForRecipient"]
