"""`nitro-local demo`: a key is born, signs, and attacks of a hostile parent fail. Tells it as it goes."""

import base64
import contextlib
import hashlib
import secrets
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Any, Final

from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.keypolicy import PolicyKind, parse_policy
from config.keypolicy.check import check_policy
from enclave.nsm import Nsm
from local.enclave import SOURCE_ROOT
from local.foundation import ACCOUNT
from local.jobs_client import JobsClient
from local.kms import Credentials
from local.kms.principals import local_user_arn
from local.kms.provision import GENERATOR_ROLE, role_arn
from local.known_flaw import flawed_key_policy
from local.measurements import digest_code, measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm
from local.resources import error_code
from local.stack import LocalStack, run_stack
from local.stack_facts import StackFacts
from local.story import StepFailedError, Story
from protocol.attestation import TrustRoot
from protocol.birth import BirthCertificate
from protocol.birth_verification import verify_birth
from protocol.channel import open_channel
from protocol.clock import system_clock
from protocol.errors import ErrorCode
from protocol.messages import Role, SealedRecord, Sign, SignItem, SignResult
from protocol.statement import encryption_context

MESSAGE: Final = "Hello World"
_DATA_KEY_BYTES: Final = 32
_ANYBODY: Final = Credentials("local", "local", "local")
"""Whoever is not registered at the stand-in is its account's own user."""

_CALL_TIMEOUT_S: Final = 20.0
_RSA_BITS: Final = 2048
_SWAPPED: Final = ("encrypted_privatekey", "publickey", "encrypted_datakey", "statement")


async def run_demo(state: Path, story: Story) -> None:
    """Tell the whole story on a fresh stack.

    Raises:
        StepFailedError: a step did not go as told.
    """
    story.chapter("A whole service on this machine")
    async with contextlib.AsyncExitStack() as stack:
        with story.step("SQS, DynamoDB, an attesting KMS, two vsock-proxies, two enclaves and two workers are up"):
            local = await stack.enter_async_context(run_stack(state))
        story.note(f"generator PCR0 {local.facts.generator_pcr0[:24]}…  signer PCR0 {local.facts.signer_pcr0[:24]}…")
        client = await stack.enter_async_context(_jobs_client(local.facts))
        tag = secrets.token_hex(4)
        user = "u001"
        await _birth_and_signature(local, client, story, user, tag)
        await _attacks(local, client, story, user, tag)
        await _key_policy(local, story)
        story.chapter("All of it went as told.")


@contextlib.asynccontextmanager
async def _jobs_client(facts: StackFacts) -> AsyncGenerator[JobsClient, None]:
    session = get_session()
    session.set_credentials("client", "client")
    region, url = facts.region, facts.endpoint_url
    async with (
        session.create_client("sqs", region_name=region, endpoint_url=url) as sqs,
        session.create_client("dynamodb", region_name=region, endpoint_url=url) as dynamodb,
    ):
        yield JobsClient(facts, sqs, dynamodb)


async def _birth_and_signature(local: LocalStack, client: JobsClient, story: Story, user: str, tag: str) -> None:
    story.chapter("A key is born")
    with story.step(f"generate {user}: the reply carries the public key and its birth certificate"):
        born = _succeeded(await client.ask({"type": "generate", "job_id": f"g-{tag}", "userid": user}))
    story.note(f"public key {born['publickey_compressed']}  Ethereum {born['ethereum_address']}")
    public_key = bytes.fromhex(born["publickey"])
    with story.step("the certificate proves that an enclave of the generator's image made exactly this key"):
        birth = verify_birth(
            BirthCertificate.from_base64(born["birth_certificate"]),
            root=TrustRoot.from_pem(Path(local.facts.nitro_root).read_bytes()),
            pcr0={bytes.fromhex(local.facts.generator_pcr0)},
            userid=user,
            public_key=public_key,
        )
    story.note(f"made in {birth.module_id} at {birth.time:%Y-%m-%d %H:%M:%S} UTC")
    row = await client.row(user)
    story.note(f"what the parent stores: sealed key {row['encrypted_privatekey']['S'][:32]}…")
    story.chapter("It signs")
    with story.step(f"sign {MESSAGE!r}: a signature on the reply queue"):
        signed = _succeeded(
            await client.ask({"type": "sign", "job_id": f"s-{tag}", "userid": user, "message": MESSAGE})
        )
    story.note(f"r||s {signed['signature'][:48]}…")
    with story.step("the signature verifies with an independent library (cryptography)"):
        _verify(public_key, bytes.fromhex(signed["signature"]), MESSAGE.encode())
    with story.step("the same job again gives the same signature: redelivery does no harm"):
        again = _succeeded(
            await client.ask({"type": "sign", "job_id": f"s2-{tag}", "userid": user, "message": MESSAGE})
        )
        _require(again["signature"] == signed["signature"], "another signature")


async def _attacks(local: LocalStack, client: JobsClient, story: Story, user: str, tag: str) -> None:
    story.chapter("Three attacks by whoever owns the parent")
    row = await client.row(user)
    with story.step("KMS refuses to open the data key without attestation, even with the signer's own credentials"):
        await _expect_denied(local, row, recipient=None)
    with story.step("KMS refuses an enclave with another PCR0"):
        await _expect_denied(local, row, recipient=await _recipient_of_another_image(local))
    other = "u002"
    victim = _succeeded(await client.ask({"type": "generate", "job_id": f"g2-{tag}", "userid": other}))
    own = await client.row(other)
    with story.step(f"with the rows of {user} and {other} swapped, the job is refused"):
        await client.overwrite_row({**own, **{name: row[name] for name in _SWAPPED}})
        swapped = await client.ask({"type": "sign", "job_id": f"s3-{tag}", "userid": other, "message": MESSAGE})
        _require(swapped["status"] == "error" and swapped["error"]["code"] == "record_refused", str(swapped))
    story.note(f"error {swapped['error']['code']}: {swapped['error']['message']}")
    with story.step("a parent that leaves that check out meets the enclave's own"):
        await _expect_enclave_refusal(local, row, other)
    await client.overwrite_row(own)
    with story.step(f"with its own row back, {other} signs again"):
        mended = _succeeded(
            await client.ask({"type": "sign", "job_id": f"s4-{tag}", "userid": other, "message": MESSAGE})
        )
        _verify(bytes.fromhex(victim["publickey"]), bytes.fromhex(mended["signature"]), MESSAGE.encode())


async def _expect_enclave_refusal(local: LocalStack, row: dict[str, Any], userid: str) -> None:
    """Ask the signer enclave itself, as a hostile parent would, for a signature by one user's key for another user."""
    record = SealedRecord(
        statement=base64.b64decode(row["statement"]["S"]),
        sealed_key=base64.b64decode(row["encrypted_privatekey"]["S"]),
        encrypted_data_key=base64.b64decode(row["encrypted_datakey"]["S"]),
    )
    request = Sign(items=(SignItem(userid=userid, record=record, message=MESSAGE.encode()),))
    address = local.layout.enclave_address(Role.SIGNER)
    async with open_channel(address, software="a hostile parent", timeout_s=_CALL_TIMEOUT_S) as channel:
        answer = await channel.call(request, timeout_s=_CALL_TIMEOUT_S)
    if not isinstance(answer, SignResult) or (error := answer.results[0].error) is None:
        raise StepFailedError("the enclave signed")
    _require(error.code == ErrorCode.RECORD_REFUSED, f"the enclave answered {error.code}")


async def _expect_denied(local: LocalStack, row: dict[str, Any], recipient: dict[str, Any] | None) -> None:
    context = encryption_context(row["userid"]["S"], base64.b64decode(row["statement"]["S"]))
    arguments: dict[str, Any] = {
        "CiphertextBlob": base64.b64decode(row["encrypted_datakey"]["S"]),
        "EncryptionContext": context,
        "KeyId": local.facts.kms_key_arn,
    }
    async with _kms_client(local.facts, local.foundation.credentials[Role.SIGNER]) as kms:
        await _expect_access_denied(kms.decrypt(**arguments, **({} if recipient is None else {"Recipient": recipient})))


@contextlib.asynccontextmanager
async def _kms_client(facts: StackFacts, credentials: Credentials) -> AsyncGenerator[Any, None]:
    session = get_session()
    session.set_credentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    async with session.create_client(
        "kms", region_name=facts.region, endpoint_url=facts.kms_endpoint_url, verify=facts.kms_ca_bundle
    ) as kms:
        yield kms


async def _recipient_of_another_image(local: LocalStack) -> dict[str, Any]:
    """Attest an RSA key from an image with the same kernel and boot (PCR1) and another program."""
    stranger = measure(b"another program", digest_code(SOURCE_ROOT))
    authority = NitroAuthority.in_folder(local.layout.nitro, now_s=system_clock())
    nsm = Nsm(StandInNsm(authority, stranger, clock=system_clock))
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS).public_key()
    try:
        document = await nsm.attest(
            user_data=None,
            nonce=None,
            public_key=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        )
    finally:
        nsm.close()
    return {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}


async def _key_policy(local: LocalStack, story: Story) -> None:
    story.chapter("Why the key policy is made, not written by hand")
    image = local.foundation.images[Role.GENERATOR]
    flawed = flawed_key_policy(
        role_arn=role_arn(ACCOUNT, GENERATOR_ROLE), admin_arn=local_user_arn(ACCOUNT), image=image
    )
    recipient = await _recipient_of_another_image(local)
    arguments: dict[str, Any] = {"NumberOfBytes": _DATA_KEY_BYTES, "Recipient": recipient}
    async with (
        _kms_client(local.facts, _ANYBODY) as administrator,
        _kms_client(local.facts, local.foundation.credentials[Role.GENERATOR]) as generator,
    ):
        with story.step("under the best-known demo's key policy, KMS makes data keys for that other image, too"):
            created = await administrator.create_key(Policy=flawed)
            await generator.generate_data_key(KeyId=created["KeyMetadata"]["Arn"], **arguments)
        for finding in check_policy(parse_policy(flawed, PolicyKind.KEY)):
            story.note(f"nitro-signer policy check: {finding.statement}: {finding.text}")
        with story.step("under ours it does not"):
            await _expect_access_denied(generator.generate_data_key(KeyId=local.facts.kms_key_arn, **arguments))


async def _expect_access_denied(call: Awaitable[object]) -> None:
    try:
        await call
    except ClientError as error:
        code = error_code(error)
        _require(code == "AccessDeniedException", f"KMS answered {code}")
        return
    raise StepFailedError("KMS answered")


def _verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    half = len(signature) // 2
    der = encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), b"\x04" + public_key)
    try:
        point.verify(der, hashlib.sha256(message).digest(), ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature as error:
        raise StepFailedError("the signature does not verify") from error


def _succeeded(reply: dict[str, Any]) -> dict[str, Any]:
    _require(reply["status"] == "ok", str(reply))
    return reply


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence at its calls
    if not holds:
        raise StepFailedError(otherwise)
