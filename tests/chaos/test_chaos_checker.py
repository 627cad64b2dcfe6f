"""The checker finds what it is there to find: a right history passes, and each planted fault is named."""

from collections.abc import Callable
from typing import Any

import pytest
from coincurve import PrivateKey

from protocol.attestation import AWS_NITRO_ROOT_G1
from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.jobs import ErrorReply
from protocol.messages import Digest
from tests.chaos.checker import Checker, Verdict, verifies
from tests.chaos.faults import RATES, Fates
from tests.chaos.history import History, Sent
from tests.chaos.jobs import JobSource
from tests.chaos.plan import make_plan

KEY = PrivateKey(b"\x01" * 32)
OTHER = PrivateKey(b"\x02" * 32)
PUBLICKEY = KEY.public_key.format(compressed=False)[1:].hex()


def sign_body(job_id: str, **form: str) -> dict[str, str]:
    """A sign job."""
    return {"type": "sign", "job_id": job_id, "userid": "u", "message": "m", **form}


def recoverable(key: PrivateKey, digest: bytes) -> str:
    """R || s || v over a digest."""
    return key.sign_recoverable(digest, hasher=None).hex()


def sign_reply(job_id: str, key: PrivateKey = KEY) -> dict[str, Any]:
    """A right reply to `sign_body(job_id)`, if the key is right."""
    signature = recoverable(key, digest_of(b"m", Digest.SHA256))[:128]
    return {"type": "sign", "job_id": job_id, "status": "ok", "userid": "u", "signature": signature,
            "publickey": PUBLICKEY, "verified": True}  # fmt: skip


def error_reply(job_id: str, code: ErrorCode) -> dict[str, Any]:
    """An error reply."""
    return ErrorReply.of("sign", job_id, "u", SignerError(code)).model_dump(mode="json")


def right_history() -> History:
    """One job that is done, answered twice; one that must fail, and does; one that was given up."""
    history = History()
    for job_id, expected in (("done", None), ("bad", ErrorCode.BAD_REQUEST), ("late", None)):
        history.sent[job_id] = Sent(sign_body(job_id), expected)
    history.replies["done"] = [sign_reply("done"), sign_reply("done")]
    history.replies["bad"] = [error_reply("bad", ErrorCode.BAD_REQUEST)]
    history.dead_letters["bad"] = ["bad_request"]
    history.replies["late"] = [error_reply("late", ErrorCode.KMS_THROTTLED)]
    history.dead_letters["late"] = ["kms_throttled"]
    history.records["u"] = {"userid": "u", "publickey": PUBLICKEY}
    return history


def lose(history: History) -> None:
    """Nobody ever hears of a job."""
    del history.replies["late"], history.dead_letters["late"]


def sign_with_another_key(history: History) -> None:
    """The signature is somebody else's."""
    history.replies["done"] = [sign_reply("done", OTHER)]


def answer_differently(history: History) -> None:
    """The same job has two signatures."""
    history.replies["done"].append({**sign_reply("done"), "signature": "00" * 64})


def name_another_key(history: History) -> None:
    """The reply shows a public key that is not in the table."""
    history.replies["done"] = [{**sign_reply("done"), "publickey": "11" * 64}]


def answer_bad_as_done(history: History) -> None:
    """A job that must fail is answered as done."""
    history.replies["bad"] = [sign_reply("bad")]


def fail_for_good(history: History) -> None:
    """A good job is refused as if it were bad."""
    history.replies["done"] = [error_reply("done", ErrorCode.RECORD_REFUSED)]


def fail_without_copy(history: History) -> None:
    """A job is given up, and no copy of it is kept."""
    del history.dead_letters["late"]


def put_aside_without_reason(history: History) -> None:
    """A copy in the dead-letter queue says nothing."""
    history.dead_letters["late"] = [None]


def change_record(history: History) -> None:
    """A key record is not what it was."""
    history.keep_snapshot(history.records, {"u": {"userid": "u", "publickey": "22" * 64}})


def remove_record(history: History) -> None:
    """A key record is gone."""
    history.keep_snapshot(history.records, {})


def answer_nobody(history: History) -> None:
    """A reply to a job that was never sent."""
    history.replies["ghost"] = [sign_reply("ghost")]


def judge(history: History, puts: dict[tuple[str, str], int] | None = None) -> Verdict:
    """Judge without any root: no generate job is in these histories."""
    return Checker(AWS_NITRO_ROOT_G1, {b"\x01" * 48}).judge(history, puts or {})


def test_a_right_history_holds() -> None:
    """Answered twice is right, failed as expected is right, given up with a reason is right."""
    verdict = judge(right_history())
    assert verdict.holds
    assert (verdict.jobs, verdict.answered, verdict.answered_again) == (3, 3, 1)
    assert verdict.dead_lettered == {"bad_request": 1, "kms_throttled": 1}


@pytest.mark.parametrize(
    ("plant", "kind", "named"),
    [
        (lose, "lost", "late"),
        (sign_with_another_key, "wrong", "done"),
        (answer_differently, "wrong", "done"),
        (name_another_key, "wrong", "done"),
        (answer_bad_as_done, "false_success", "bad"),
        (fail_for_good, "unreasoned", "done"),
        (fail_without_copy, "unreasoned", "late"),
        (put_aside_without_reason, "unreasoned", "late"),
        (change_record, "overwritten", "u"),
        (remove_record, "overwritten", "u"),
        (answer_nobody, "unasked", "ghost"),
    ],
)
def test_a_planted_fault_is_named(plant: Callable[[History], None], kind: str, named: str) -> None:
    """Each broken promise is found, and the job or the key of it."""
    history = right_history()
    plant(history)
    verdict = judge(history)
    assert not verdict.holds
    assert getattr(verdict, kind) == [named]


def test_a_second_put_or_one_without_a_condition_is_an_overwrite() -> None:
    """Also when the table never shows it."""
    assert judge(right_history(), {("UserToken", "u"): 2}).overwritten == ["u"]
    assert judge(right_history(), {("UserToken", "u"): 1}).holds


def test_every_form_of_signature_is_verified() -> None:
    """A right signature passes in each form that the jobs ask for, and one by another key in none."""
    signatures: dict[tuple[tuple[str, str], ...], Callable[[PrivateKey], str]] = {
        (): lambda key: recoverable(key, digest_of(b"m", Digest.SHA256))[:128],
        (("format", "der"),): lambda key: key.sign(digest_of(b"m", Digest.SHA256), hasher=None).hex(),
        (("digest", "keccak256"), ("format", "recoverable")): lambda key: recoverable(
            key, digest_of(b"m", Digest.KECCAK256)
        ),
        (("digest", "eip191"), ("format", "recoverable")): lambda key: recoverable(key, digest_of(b"m", Digest.EIP191)),
        (("scheme", "schnorr"),): lambda key: key.sign_schnorr(digest_of(b"m", Digest.SHA256)).hex(),
    }
    for form, make in signatures.items():
        body = sign_body("s", **dict(form))
        assert verifies(body, make(KEY), PUBLICKEY)
        assert not verifies(body, make(OTHER), PUBLICKEY)
        assert not verifies(body, "00", PUBLICKEY)


def test_a_seed_repeats_plan_fates_and_jobs() -> None:
    """Equal seeds give equal events, equal faults and equal jobs; another seed gives others."""
    assert make_plan(7, 60, 2) == make_plan(7, 60, 2) != make_plan(8, 60, 2)

    def fates(seed: int) -> list[object]:
        source = Fates(seed)
        source.is_calm = False
        return [source.next(operation) for _ in range(200) for operation in RATES]

    def jobs(seed: int) -> list[Sent]:
        source = JobSource(seed)
        source.users = ["a", "b"]
        return [job for _ in range(200) for job in source.next()]

    assert fates(7) == fates(7) != fates(8)
    assert jobs(7) == jobs(7) != jobs(8)
