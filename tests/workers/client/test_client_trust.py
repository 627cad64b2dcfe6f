"""What the parent may say, and what the client believes of it: nothing that is not proven."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from enclave.keypair import KeyPair
from protocol.errors import ErrorCode
from protocol.jobs import GenerateJob, SignJob
from protocol.messages import Digest, Scheme, SignatureFormat
from protocol.publickey import compressed, ethereum_address, uncompressed
from tests.workers.client.double import (
    OURS,
    PCR0,
    STRANGER,
    Hardware,
    Service,
    authority,
    edited,
    failed,
    generated,
    honest,
    key_of,
    settings,
    signed,
)
from workers.client import AnswerRefusedError, BadRequestError, JobFailedError, SigningClient
from workers.verify import verify_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PARENTS_OWN = KeyPair(bytes([9]) * 32)


async def test_generate_returns_the_key_that_was_born(service: Service) -> None:
    """The key, its forms, and where it was born."""
    async with service.client() as client:
        key = await client.generate("u1")
    xy = key_of("u1").public_key
    assert (key.userid, key.xy) == ("u1", xy)
    assert (key.compressed, key.uncompressed) == (compressed(xy), uncompressed(xy))
    assert key.ethereum_address == ethereum_address(xy)
    assert key.birth is not None
    assert key.birth.document.pcrs[0] == PCR0


@pytest.mark.parametrize(
    ("digest", "scheme", "signature_format"),
    [
        (digest, Scheme.ECDSA, signature_format)
        for digest in (Digest.SHA256, Digest.KECCAK256, Digest.EIP191, Digest.NONE)
        for signature_format in SignatureFormat
    ]
    + [
        (Digest.SHA256, Scheme.SCHNORR, SignatureFormat.COMPACT),
        (Digest.NONE, Scheme.SCHNORR, SignatureFormat.COMPACT),
    ],
)
async def test_every_form_is_signed_and_verified(
    service: Service, digest: Digest, scheme: Scheme, signature_format: SignatureFormat
) -> None:
    """What comes out verifies with the key, and is in the form that was asked for."""
    async with service.client() as client:
        key = await client.generate("u1")
        made = await client.sign("u1", b"m" * 32, digest=digest, scheme=scheme, format=signature_format)
    verify_signature(made.data, made.digest, key.xy, scheme, signature_format)
    assert (made.key, made.scheme, made.format, made.hex()) == (key, scheme, signature_format, made.data.hex())
    assert made.job_id == service.jobs[-1].job_id
    if signature_format is SignatureFormat.DER:
        with pytest.raises(ValueError, match="DER"):
            _ = made.r
    else:
        assert made.r.to_bytes(32, "big") + made.s.to_bytes(32, "big") == made.data[:64]
    if signature_format is SignatureFormat.RECOVERABLE:
        assert made.recovery_id == made.data[64]
    else:
        with pytest.raises(ValueError, match="recoverable"):
            _ = made.recovery_id


async def test_text_and_bytes_are_the_same_message(service: Service) -> None:
    """Text is signed as its UTF-8 bytes."""
    async with service.client() as client:
        await client.generate("u1")
        assert (await client.sign("u1", "Grüße")).data == (await client.sign("u1", "Grüße".encode())).data


def own_key_under_the_certificate_of_the_true_one(job: GenerateJob) -> str:
    """Claim another public key beside the good certificate."""
    return generated(job, PARENTS_OWN, Hardware(authority(OURS)).certificate(job.userid, key_of(job.userid).public_key))


def own_key_born_on_other_hardware(job: GenerateJob) -> str:
    """Certify it with a root that is not trusted."""
    return generated(job, PARENTS_OWN, Hardware(authority(STRANGER)).certificate(job.userid, PARENTS_OWN.public_key))


def own_key_born_in_another_image(job: GenerateJob) -> str:
    """Certify it on genuine hardware, in an image of one's own."""
    hardware = Hardware(authority(OURS), pcr0=bytes([8]) * 48)
    return generated(job, PARENTS_OWN, hardware.certificate(job.userid, PARENTS_OWN.public_key))


def key_born_in_debug_mode(job: GenerateJob) -> str:
    """Certify it in an enclave whose memory can be read."""
    hardware = Hardware(authority(OURS), pcr0=bytes(48))
    return generated(job, PARENTS_OWN, hardware.certificate(job.userid, PARENTS_OWN.public_key))


def key_of_another_user(job: GenerateJob) -> str:
    """Give the well certified key of another user id."""
    other = key_of("mallory")
    return generated(job, other, Hardware(authority(OURS)).certificate("mallory", other.public_key))


def no_certificate(job: GenerateJob) -> str:
    """Leave it out."""
    return edited(generated(job), birth_certificate="")


def no_public_key(job: GenerateJob) -> str:
    """Something that is not hexadecimal."""
    return edited(generated(job), publickey="key")


def a_sign_reply(job: GenerateJob) -> str:
    """Answer with another kind of reply under the right job id."""
    return signed(SignJob(type="sign", job_id=job.job_id, userid=job.userid, message="m"), PARENTS_OWN)


@pytest.mark.parametrize(
    "lie",
    [
        own_key_under_the_certificate_of_the_true_one,
        own_key_born_on_other_hardware,
        own_key_born_in_another_image,
        key_born_in_debug_mode,
        key_of_another_user,
        no_certificate,
        no_public_key,
        a_sign_reply,
    ],
)
async def test_a_parent_cannot_pass_a_key_off_as_born_in_the_enclave(
    service: Service, lie: Callable[[GenerateJob], str]
) -> None:
    """Each lie is refused with `birth_refused`, and the key is not trusted afterwards."""
    service.answer = lambda job: [lie(job)] if isinstance(job, GenerateJob) else [honest(job)]
    async with service.client() as client:
        with pytest.raises(AnswerRefusedError) as caught:
            await client.generate("u1")
        assert caught.value.code is ErrorCode.BIRTH_REFUSED
        assert caught.value.job_id == service.jobs[0].job_id
        with pytest.raises(BadRequestError):
            await client.sign("u1", b"m")


async def test_a_second_key_for_a_user_is_refused(service: Service) -> None:
    """However well it is certified: the owner of the parent can have another key made for the same user id."""
    async with service.client() as client:
        first = await client.generate("u1")
        second = PARENTS_OWN
        certificate = Hardware(authority(OURS)).certificate("u1", second.public_key)
        service.answer = lambda job: [generated(job, second, certificate)] if isinstance(job, GenerateJob) else []
        with pytest.raises(AnswerRefusedError, match="not the one that this client trusts"):
            await client.generate("u1")
        service.answer = lambda job: [honest(job)]
        assert (await client.sign("u1", b"m")).key == first


def by_the_parents_own_key(job: SignJob) -> str:
    """Sign with another key, and name it as the public key of the user."""
    return signed(job, PARENTS_OWN)


def over_another_message(job: SignJob) -> str:
    """Sign something else with the right key."""
    return signed(job, message=b"another message")


def in_another_form(job: SignJob) -> str:
    """Sign the right message with the right key, in DER."""
    return signed(job.model_copy(update={"format": SignatureFormat.DER}))


def with_high_s(job: SignJob) -> str:
    """Give the other of the two signatures that fit: (r, n - s)."""
    n = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    data = bytes.fromhex(json.loads(signed(job))["signature"])
    high = data[:32] + (n - int.from_bytes(data[32:], "big")).to_bytes(32, "big")
    return edited(signed(job), signature=high.hex())


def not_hexadecimal(job: SignJob) -> str:
    """Give text."""
    return edited(signed(job), signature="yes")


def a_generate_reply(job: SignJob) -> str:
    """Answer with another kind of reply under the right job id."""
    return generated(GenerateJob(type="generate", job_id=job.job_id, userid=job.userid))


@pytest.mark.parametrize(
    "lie",
    [by_the_parents_own_key, over_another_message, in_another_form, with_high_s, not_hexadecimal, a_generate_reply],
)
@pytest.mark.parametrize("is_pinned", [False, True])
async def test_a_parent_cannot_pass_a_signature_off(
    service: Service, lie: Callable[[SignJob], str], *, is_pinned: bool
) -> None:
    """The trusted key decides, whatever the reply says of keys and of having been verified."""
    service.answer = lambda job: [lie(job)] if isinstance(job, SignJob) else [honest(job)]
    async with service.client() as client:
        if is_pinned:
            client.pin("u1", key_of("u1").public_key)
        else:
            await client.generate("u1")
        with pytest.raises(AnswerRefusedError) as caught:
            await client.sign("u1", b"m")
    assert caught.value.code is ErrorCode.SIGNATURE_REFUSED
    assert caught.value.job_id == service.jobs[-1].job_id


async def test_without_a_trusted_key_nothing_is_sent(service: Service) -> None:
    """There is no trust on first sight, and so no signature to be had before there is a key."""
    async with service.client() as client:
        with pytest.raises(BadRequestError, match="generate it, or pin it"):
            await client.sign("u1", b"m")
    assert service.jobs == []


async def test_without_trust_nothing_is_generated(service: Service) -> None:
    """No root is built in."""
    async with service.client(trust=None) as client:
        with pytest.raises(BadRequestError, match="trust"):
            await client.generate("u1")
    assert service.jobs == []


async def test_a_pinned_key_is_enough_to_sign(service: Service) -> None:
    """From the settings or by a call; nothing was generated."""
    keys = {"u1": key_of("u1").public_key}
    async with service.client(trust=None, pinned_keys=keys) as client:
        client.pin("u2", key_of("u2").public_key)
        for userid in ("u1", "u2"):
            made = await client.sign(userid, b"m")
            assert (made.key.xy, made.key.birth) == (key_of(userid).public_key, None)


async def test_a_pinned_key_outweighs_a_certificate(service: Service) -> None:
    """A key that is well certified, but not the pinned one, is refused."""
    async with service.client(pinned_keys={"u1": PARENTS_OWN.public_key}) as client:
        with pytest.raises(AnswerRefusedError):
            await client.generate("u1")


def test_pins_are_checked() -> None:
    """64 bytes of a point of the curve; and never silently another one."""
    client = SigningClient(settings())
    client.pin("u1", key_of("u1").public_key)
    assert client.pin("u1", key_of("u1").public_key).userid == "u1"
    with pytest.raises(ValueError, match="already"):
        client.pin("u1", PARENTS_OWN.public_key)
    with pytest.raises(ValueError, match="64 bytes"):
        client.pin("u2", b"short")
    with pytest.raises(ValueError, match="not a point"):
        client.pin("u2", bytes(64))


async def test_what_the_service_says_of_a_failure_comes_with_its_code(service: Service) -> None:
    """Of the closed list, with whether to try again."""
    service.answer = lambda job: [failed(job, ErrorCode.KMS_THROTTLED)]
    async with service.client() as client:
        with pytest.raises(JobFailedError) as caught:
            await client.generate("u1")
        assert (caught.value.code, caught.value.retryable) == (ErrorCode.KMS_THROTTLED, True)
        assert caught.value.job_id == service.jobs[0].job_id
        service.answer = lambda job: [failed(job, ErrorCode.FROZEN)]
        client.pin("u1", key_of("u1").public_key)
        with pytest.raises(JobFailedError) as caught:
            await client.sign("u1", b"m")
        assert (caught.value.code, caught.value.retryable) == (ErrorCode.FROZEN, False)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda client: client.generate("no spaces"), "userid"),
        (lambda client: client.sign("u1", b"short", digest=Digest.NONE), "32-byte digest"),
        (lambda client: client.sign("u1", b"m" * 65537), "message"),
        (lambda client: client.sign("u1", "\ud800"), "message"),
        (lambda client: client.sign("u1", b"m", scheme=Scheme.SCHNORR, format=SignatureFormat.DER), "schnorr"),
    ],
)
async def test_a_job_that_does_not_exist_is_refused_before_it_is_sent(
    service: Service, call: Callable[[SigningClient], Coroutine[Any, Any, object]], named: str
) -> None:
    """The same rules as the worker's, at the caller's own desk."""
    async with service.client(pinned_keys={"u1": key_of("u1").public_key}) as client:
        with pytest.raises(BadRequestError, match=named):
            await call(client)
    assert service.jobs == []
