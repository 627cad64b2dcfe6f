"""Attested calls to the stand-in KMS, by real AWS clients over TLS: what opens, and each refusal with its code."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from local.nitro_authority import NitroAuthority
from protocol.clock import system_clock
from tests.local.kms.rig import (
    ACCOUNT,
    DEBUG,
    GENERATOR,
    OTHER,
    RECIPIENT_KEY,
    SIGNER,
    STRANGER,
    Rig,
    open_independently,
    refusal,
    spki,
)

if TYPE_CHECKING:
    from local.measurements import Measurements

CONTEXT = {"userid": "u001", "statement_sha256": "00" * 32}


async def make_data_key(rig: Rig) -> tuple[bytes, bytes]:
    """Return a data key of the generator's enclave, encrypted and plain."""
    async with rig.client(rig.access.generator) as kms:
        answer = await kms.generate_data_key(
            KeyId=rig.key_arn, NumberOfBytes=32, EncryptionContext=CONTEXT, Recipient=rig.recipient(GENERATOR)
        )
    return answer["CiphertextBlob"], open_independently(answer["CiphertextForRecipient"])


def decrypt_arguments(rig: Rig, blob: bytes, image: Measurements = SIGNER, **changes: Any) -> dict[str, Any]:
    """Return a good Decrypt of the signer's enclave, changed."""
    good = {
        "KeyId": rig.key_arn,
        "CiphertextBlob": blob,
        "EncryptionContext": CONTEXT,
        "Recipient": rig.recipient(image),
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


async def test_an_attested_caller_gets_its_secrets_only_in_envelopes(running: Rig) -> None:
    """GenerateRandom, GenerateDataKey and Decrypt answer to the recipient's key, and have no Plaintext."""
    async with running.client(running.access.generator) as kms:
        random = await kms.generate_random(NumberOfBytes=1024, Recipient=running.recipient(GENERATOR))
    assert "Plaintext" not in random
    assert len(open_independently(random["CiphertextForRecipient"])) == 1024
    blob, data_key = await make_data_key(running)
    async with running.client(running.access.signer) as kms:
        answer = await kms.decrypt(**decrypt_arguments(running, blob))
    assert "Plaintext" not in answer
    assert running.key_arn == answer["KeyId"]
    assert data_key == open_independently(answer["CiphertextForRecipient"])
    assert len(data_key) == 32


def test_plain_boto3_is_served(rig: Rig) -> None:
    """A blocking client of another library opens what an asynchronous one was given."""

    def decrypt(blob: bytes) -> bytes:
        kms: Any = boto3.client(
            "kms",
            region_name="us-east-1",
            endpoint_url=rig.kms.endpoint_url,
            verify=str(rig.kms.ca_bundle),
            aws_access_key_id=rig.access.signer.access_key_id,
            aws_secret_access_key=rig.access.signer.secret_access_key,
            aws_session_token=rig.access.signer.session_token,
        )
        try:
            return open_independently(kms.decrypt(**decrypt_arguments(rig, blob))["CiphertextForRecipient"])
        finally:
            kms.close()

    async def run() -> None:
        async with rig.serve():
            blob, data_key = await make_data_key(rig)
            assert data_key == await asyncio.to_thread(decrypt, blob)

    asyncio.run(run())


@pytest.mark.parametrize("bits", [3072, 4096])
async def test_longer_recipient_keys_are_served(running: Rig, bits: int) -> None:
    """The lengths inside the envelope follow the key's."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    recipient = running.recipient(GENERATOR, public_key=spki(key))
    async with running.client(running.access.generator) as kms:
        answer = await kms.generate_random(NumberOfBytes=100, Recipient=recipient)
    assert len(open_independently(answer["CiphertextForRecipient"], key)) == 100


async def test_the_encryption_context_and_the_pinned_key_are_enforced(running: Rig) -> None:
    """A blob opens in its own context, with its own key, undamaged, and not otherwise."""
    blob, _ = await make_data_key(running)
    bent = blob[:-1] + bytes([blob[-1] ^ 1])
    async with running.client() as admin:
        policy = (await admin.get_key_policy(KeyId=running.key_arn))["Policy"]
        other_key = (await admin.create_key(Policy=policy))["KeyMetadata"]["Arn"]
    async with running.client(running.access.signer) as kms:
        for changes, code in (
            ({"EncryptionContext": {**CONTEXT, "userid": "u002"}}, "InvalidCiphertextException"),
            ({"EncryptionContext": {"userid": "u001"}}, "InvalidCiphertextException"),
            ({"EncryptionContext": None}, "InvalidCiphertextException"),
            ({"CiphertextBlob": bent}, "InvalidCiphertextException"),
            ({"CiphertextBlob": b"not a blob"}, "InvalidCiphertextException"),
            ({"CiphertextBlob": b"not a blob", "KeyId": None}, "InvalidCiphertextException"),
            ({"CiphertextBlob": blob[:4] + bytes(16) + blob[20:], "KeyId": None}, "InvalidCiphertextException"),
            ({"KeyId": other_key}, "IncorrectKeyException"),
            ({"KeyId": running.key_arn.replace("us-east-1", "us-west-2")}, "NotFoundException"),
            ({"KeyId": running.key_arn[:-1] + "x"}, "NotFoundException"),
            ({"KeyId": "alias/nothing"}, "NotFoundException"),
            ({"DryRun": True}, "DryRunOperationException"),
        ):
            assert code == (await refusal(kms.decrypt(**decrypt_arguments(running, blob, **changes))))[0], changes
        for key_id in (None, running.key_arn, running.key_arn.rpartition("/")[2], "alias/nitro-signer"):
            assert running.key_arn == (await kms.decrypt(**decrypt_arguments(running, blob, KeyId=key_id)))["KeyId"]


@pytest.mark.parametrize("image", [GENERATOR, OTHER, DEBUG, None])
async def test_another_image_is_denied_in_the_words_of_kms(running: Rig, image: Measurements | None) -> None:
    """Wrong role's image, unknown image, debug mode and no attestation at all: AccessDeniedException."""
    blob, _ = await make_data_key(running)
    recipient = running.recipient(image) if image else None
    async with running.client(running.access.signer) as kms:
        code, text = await refusal(kms.decrypt(**decrypt_arguments(running, blob, Recipient=recipient)))
    assert code == "AccessDeniedException"
    assert text == (
        f"User: arn:aws:sts::{ACCOUNT}:assumed-role/nitro-local-signer/nitro-local is not authorized to perform: "
        f"kms:Decrypt on resource: {running.key_arn} with an explicit deny in a resource-based policy"
    )


async def test_roles_keep_to_their_operation(running: Rig) -> None:
    """The signer makes neither data keys nor randomness, the generator opens nothing, nobody encrypts."""
    blob, _ = await make_data_key(running)
    data_key = {"KeyId": running.key_arn, "NumberOfBytes": 32}
    async with running.client(running.access.signer) as kms:
        for image in (SIGNER, GENERATOR):
            recipient = running.recipient(image)
            assert (await refusal(kms.generate_data_key(**data_key, Recipient=recipient)))[0] == "AccessDeniedException"
            random = kms.generate_random(NumberOfBytes=32, Recipient=recipient)
            code, text = await refusal(random)
            assert code == "AccessDeniedException"
            assert text.endswith("because no identity-based policy allows the kms:GenerateRandom action")
    async with running.client(running.access.generator) as kms:
        for image in (SIGNER, GENERATOR):
            code, _ = await refusal(kms.decrypt(**decrypt_arguments(running, blob, image)))
            assert code == "AccessDeniedException"
        assert (await refusal(kms.generate_random(NumberOfBytes=32)))[0] == "AccessDeniedException"
    for credentials in (running.access.generator, STRANGER):
        async with running.client(credentials) as kms:
            code, text = await refusal(kms.encrypt(KeyId=running.key_arn, Plaintext=b"x"))
            assert (code, "explicit deny" in text) == ("AccessDeniedException", True)


async def test_a_positive_condition_answers_with_the_implicit_denial(running: Rig) -> None:
    """Without the backstop Denies the text is the one that real logs have."""
    role = f"arn:aws:iam::{ACCOUNT}:role/nitro-local-signer"
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/local"},
                "Action": "kms:PutKeyPolicy",
                "Resource": "*",
            },
            {
                "Effect": "Allow",
                "Principal": {"AWS": role},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": {
                    "StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": SIGNER.pcr0.hex().upper()}
                },
            },
        ],
    }
    blob, data_key = await make_data_key(running)
    async with running.client() as admin:
        await admin.put_key_policy(KeyId=running.key_arn, Policy=json.dumps(policy))
    async with running.client(running.access.signer) as kms:
        answer = await kms.decrypt(**decrypt_arguments(running, blob))
        assert data_key == open_independently(answer["CiphertextForRecipient"])
        code, text = await refusal(kms.decrypt(**decrypt_arguments(running, blob, OTHER)))
    assert code == "AccessDeniedException"
    assert text.endswith("because no resource-based policy allows the kms:Decrypt action")


async def test_the_well_known_demos_policy_lets_another_image_in_and_ours_does_not(running: Rig) -> None:
    """Another image with the same kernel (PCR1) escapes a Deny whose four negated keys are ANDed."""
    role = f"arn:aws:iam::{ACCOUNT}:role/nitro-local-signer"
    attestation = "kms:RecipientAttestation"
    demo = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Enable administration",
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/local"},
                "Action": ["kms:PutKeyPolicy", "kms:GetKeyPolicy"],
                "Resource": "*",
            },
            {
                "Sid": "Only this enclave",
                "Effect": "Deny",
                "Principal": {"AWS": role},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": {
                    "StringNotEqualsIgnoreCase": {
                        f"{attestation}:ImageSha384": SIGNER.pcr0.hex(),
                        f"{attestation}:PCR0": SIGNER.pcr0.hex(),
                        f"{attestation}:PCR1": SIGNER.pcr1.hex(),
                        f"{attestation}:PCR2": SIGNER.pcr2.hex(),
                    }
                },
            },
            {
                "Sid": "Use",
                "Effect": "Allow",
                "Principal": {"AWS": role},
                "Action": "kms:Decrypt",
                "Resource": "*",
            },
        ],
    }
    assert SIGNER.pcr1 == OTHER.pcr1
    blob, data_key = await make_data_key(running)
    async with running.client() as admin, running.client(running.access.signer) as kms:
        ours = (await admin.get_key_policy(KeyId=running.key_arn))["Policy"]
        await admin.put_key_policy(KeyId=running.key_arn, Policy=json.dumps(demo))
        unattested = await refusal(kms.decrypt(**decrypt_arguments(running, blob, Recipient=None)))
        assert unattested[0] == "AccessDeniedException", "the demo's own check sees nothing wrong"
        stolen = await kms.decrypt(**decrypt_arguments(running, blob, OTHER))
        assert data_key == open_independently(stolen["CiphertextForRecipient"])
        await admin.put_key_policy(KeyId=running.key_arn, Policy=ours)
        denied = await refusal(kms.decrypt(**decrypt_arguments(running, blob, OTHER)))
        assert denied[0] == "AccessDeniedException"


async def test_documents_are_verified(running: Rig) -> None:
    """Another root, a bent signature, no key, a key that is not RSA, and no document at all are refused."""
    good = running.document(GENERATOR)
    foreign = Rig(running.state, NitroAuthority.create(now_s=system_clock()))
    documents = {
        "root": foreign.document(GENERATOR),
        "signature": good[:-1] + bytes([good[-1] ^ 1]),
        "public_key": running.document(GENERATOR, public_key=None),
        "not an RSA public key": running.document(GENERATOR, public_key=spki(ec.generate_private_key(ec.SECP256R1()))),
        "2048": running.document(
            GENERATOR,
            public_key=spki(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505 - too short
        ),
        "is invalid": running.document(GENERATOR, public_key=b"\x30\x00"),
        "structure": b"nothing",
    }
    async with running.client(running.access.generator) as kms:
        for name, document in documents.items():
            recipient = {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
            code, text = await refusal(kms.generate_random(NumberOfBytes=1, Recipient=recipient))
            assert (code, name in text) == ("ValidationException", True), (name, text)
        recipient = {"AttestationDocument": good, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_1"}
        code, text = await refusal(kms.generate_random(NumberOfBytes=1, Recipient=recipient))
        assert (code, "RSAES_OAEP_SHA_256" in text) == ("ValidationException", True)


async def test_a_document_is_good_for_five_minutes(running: Rig) -> None:
    """Also one that was verified before; and none from the future is taken."""
    recipient = running.recipient(GENERATOR)
    async with running.client(running.access.generator) as kms:
        for shift_s, is_good in ((-65, False), (0, True), (10, True), (200, True), (295, True), (301, False)):
            running.clock.shift_s = shift_s
            call = kms.generate_random(NumberOfBytes=1, Recipient=recipient)
            if is_good:
                await call
            else:
                code, text = await refusal(call)
                assert (code, "time" in text) == ("ValidationException", True)


async def test_several_roots_can_be_trusted(rig: Rig) -> None:
    """A document is judged under the root that it names, and refused when none of them is it."""
    second = NitroAuthority.create(now_s=rig.clock())
    async with (
        rig.serve(nitro_roots=[second.trust_root, rig.authority.trust_root]),
        rig.client(rig.access.generator) as kms,
    ):
        for authority in (rig.authority, second):
            recipient = Rig(rig.state, authority).recipient(GENERATOR)
            await kms.generate_random(NumberOfBytes=1, Recipient=recipient)
        stranger = Rig(rig.state, NitroAuthority.create(now_s=rig.clock())).recipient(GENERATOR)
        assert (await refusal(kms.generate_random(NumberOfBytes=1, Recipient=stranger)))[0] == "ValidationException"
        bent = rig.recipient(GENERATOR)
        bent["AttestationDocument"] = bent["AttestationDocument"][:-1] + b"\x00"
        assert (await refusal(kms.generate_random(NumberOfBytes=1, Recipient=bent)))[0] == "ValidationException"
        second_bent = Rig(rig.state, second).recipient(GENERATOR)
        second_bent["AttestationDocument"] = second_bent["AttestationDocument"][:-96] + bytes(96)
        assert (await refusal(kms.generate_random(NumberOfBytes=1, Recipient=second_bent)))[0] == "ValidationException"


async def test_audit_lines_show_the_enclave_and_never_a_secret(running: Rig) -> None:
    """The fields are CloudTrail's, PCRs in base64; a refusal has its code; no plaintext, blob or document is there."""
    blob, data_key = await make_data_key(running)
    async with running.client(running.access.signer) as kms:
        await kms.decrypt(**decrypt_arguments(running, blob))
        await refusal(kms.decrypt(**decrypt_arguments(running, blob, Recipient=None)))
    made, opened, denied = running.events()
    assert (made["eventName"], opened["eventName"]) == ("GenerateDataKey", "Decrypt")
    assert opened["userIdentity"]["arn"].endswith("assumed-role/nitro-local-signer/nitro-local")
    assert opened["sourceIPAddress"] in {"127.0.0.1", "::1"}
    assert opened["resources"] == [{"type": "AWS::KMS::Key", "ARN": running.key_arn}]
    assert opened["requestParameters"] == {
        "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "keyId": running.key_arn,
        "encryptionContext": CONTEXT,
    }
    recipient = opened["additionalEventData"]["recipient"]
    assert recipient["attestationDocumentModuleId"] == "i-0123456789abcdef0-enc0123456789abcdef"
    assert SIGNER.pcr0 == base64.b64decode(recipient["attestationDocumentEnclaveImageDigest"])
    assert SIGNER.pcr1 == base64.b64decode(recipient["attestationDocumentEnclavePCR1"])
    assert set(recipient) == {
        "attestationDocumentModuleId",
        "attestationDocumentEnclaveImageDigest",
        *(f"attestationDocumentEnclavePCR{index}" for index in (1, 2, 3, 4, 8)),
    }
    assert (denied["errorCode"], "additionalEventData" in denied) == ("AccessDenied", False)
    assert "errorCode" not in opened
    everything = "".join(running.audit)
    for secret in (data_key, blob, spki(RECIPIENT_KEY)):
        assert base64.b64encode(secret).decode() not in everything
        assert secret.hex() not in everything


async def test_verified_documents_do_not_pile_up(running: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is bounded; a document that fell out of it is verified again. One without PCR8 is audited too."""
    monkeypatch.setattr("local.kms.recipients._CACHED_DOCUMENTS", 2)
    pcrs = {0: GENERATOR.pcr0, 1: GENERATOR.pcr1, 2: GENERATOR.pcr2}
    recipients = [running.recipient(GENERATOR, pcrs=pcrs, nonce=bytes([number])) for number in range(4)]
    async with running.client(running.access.generator) as kms:
        for recipient in [*recipients, recipients[0]]:
            await kms.generate_random(NumberOfBytes=1, Recipient=recipient)
    assert "attestationDocumentEnclavePCR8" not in running.events()[-1]["additionalEventData"]["recipient"]
