"""Judges a history, in the manner of Jepsen: it knows nothing of how the service works, only what it promised.

Signatures are verified with the `cryptography` package, and Schnorr ones with libsecp256k1 (BIP-340).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from coincurve import PublicKey, PublicKeyXOnly
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from protocol.attestation import TrustRoot
from protocol.birth import BirthCertificate, BirthCertificateError
from protocol.birth_verification import BirthRefusedError, verify_birth
from protocol.forms import digest_of
from protocol.jobs import SignJob
from protocol.keyrecord import KeyRecord
from protocol.messages import Scheme, SignatureFormat
from protocol.publickey import uncompressed
from tests.chaos.history import History, Sent

_CURVE: Final = ec.SECP256K1()
_COMPACT_BYTES: Final = 64


@dataclass(slots=True)
class Verdict:
    """Counts, and the job ids or keys of every broken promise. `holds` only if there is none."""

    jobs: int = 0
    answered: int = 0
    dead_lettered: dict[str, int] = field(default_factory=dict)
    """Jobs with a copy in a dead-letter queue, by reason."""

    answered_again: int = 0
    """Replies beyond the first of a job: a standard queue may."""

    succeeded_and_failed: int = 0
    """Jobs of which one delivery was done and another one given up. Each alone is true."""

    lost: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Signatures that do not verify, keys without a proof of birth, answers that differ from each other."""

    false_success: list[str] = field(default_factory=list)
    """Jobs that must fail, and were answered as done."""

    unreasoned: list[str] = field(default_factory=list)
    """Errors that nothing explains: a job that can be done failed for good, or lies dead without a reason."""

    unasked: list[str] = field(default_factory=list)
    """Replies to jobs that nobody sent, or that no schema knows."""

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not (
            self.lost or self.overwritten or self.wrong or self.false_success or self.unreasoned or self.unasked
        )


class Checker:
    """Judges histories of one stack."""

    def __init__(self, root: TrustRoot, generator_pcr0: Collection[bytes]) -> None:
        self._root = root
        self._pcr0 = generator_pcr0
        self._born: set[str] = set()

    def judge(self, history: History, puts: Mapping[tuple[str, str], int], unconditional_puts: int = 0) -> Verdict:
        """Return the verdict. `puts` counts successful writes by table and key."""
        verdict = Verdict(jobs=len(history.sent))
        verdict.overwritten = sorted(history.changed | {key for (_, key), count in puts.items() if count > 1})
        if unconditional_puts:
            verdict.overwritten.append(f"{unconditional_puts} puts without a condition")
        verdict.unasked = [job_id for job_id in history.replies if job_id not in history.sent] + history.unreadable
        for job_id, sent in history.sent.items():
            self._judge_job(job_id, sent, history, verdict)
        return verdict

    def _judge_job(self, job_id: str, sent: Sent, history: History, verdict: Verdict) -> None:
        replies, reasons = history.replies.get(job_id, []), history.dead_letters.get(job_id, [])
        if not replies and not reasons:
            verdict.lost.append(job_id)
            return
        verdict.answered += bool(replies)
        verdict.answered_again += max(0, len(replies) - 1)
        for reason in {reason or "none" for reason in reasons}:
            verdict.dead_lettered[reason] = verdict.dead_lettered.get(reason, 0) + 1
        done = [reply for reply in replies if reply["status"] == "ok"]
        failed = [reply for reply in replies if reply["status"] == "error"]
        if done and sent.expected_error is not None:
            verdict.false_success.append(job_id)
            return
        if not _is_explained(sent, failed, reasons):
            verdict.unreasoned.append(job_id)
        verdict.succeeded_and_failed += bool(done and (failed or reasons))
        if done and not self._is_right(sent, done, history):
            verdict.wrong.append(job_id)

    def _is_right(self, sent: Sent, done: list[dict[str, Any]], history: History) -> bool:
        record = history.records.get(sent.body["userid"])
        if record is None or {reply["userid"] for reply in done} != {sent.body["userid"]}:
            return False
        if {reply["publickey"] for reply in done} != {record["publickey"]}:
            return False
        if sent.body["type"] == "generate":
            return all(self._is_born(record, reply["birth_certificate"]) for reply in done)
        signatures = {reply["signature"] for reply in done}
        return len(signatures) == 1 and verifies(sent.body, signatures.pop(), record["publickey"])

    def _is_born(self, record: Mapping[str, str], certificate: str) -> bool:
        if certificate in self._born:
            return True
        try:
            KeyRecord.from_item(record)
            verify_birth(
                BirthCertificate.from_base64(certificate),
                root=self._root,
                pcr0=self._pcr0,
                userid=record["userid"],
                public_key=bytes.fromhex(record["publickey"]),
            )
        except (BirthCertificateError, BirthRefusedError):
            return False
        self._born.add(certificate)
        return True


def _is_explained(sent: Sent, failed: list[dict[str, Any]], reasons: list[str | None]) -> bool:
    """A job that must fail fails with its code; any other only when its tries ran out, with its copy put aside."""
    codes = {reply["error"]["code"] for reply in failed}
    if None in reasons:
        return False
    if sent.expected_error is not None:
        return codes | set(reasons) == {sent.expected_error}
    retryable = all(reply["error"]["retryable"] for reply in failed)
    return retryable and (not codes or bool(reasons))


def verifies(body: Mapping[str, str], signature: str, publickey: str) -> bool:
    """Whether a signature is by this key (x||y, hexadecimal), over this job's message, in the form it asks for."""
    try:
        return _verifies(SignJob.model_validate(dict(body)), signature, publickey)
    except (InvalidSignature, ValueError):  # ValueError: no signature or no point at all
        return False


def _verifies(job: SignJob, signature: str, publickey: str) -> bool:
    digest = digest_of(job.message_bytes, job.digest)
    raw, point = bytes.fromhex(signature), uncompressed(bytes.fromhex(publickey))
    if job.scheme is Scheme.SCHNORR:
        return PublicKeyXOnly(point[1:33]).verify(raw, digest)
    der = raw
    if job.format is SignatureFormat.COMPACT:
        der = _der(raw)
    elif job.format is SignatureFormat.RECOVERABLE:
        der = _der(raw[:-1])
        if PublicKey.from_signature_and_message(raw, digest, hasher=None).format(compressed=False) != point:
            return False
    ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point).verify(der, digest, ec.ECDSA(Prehashed(SHA256())))
    return True


def _der(compact: bytes) -> bytes:
    if len(compact) != _COMPACT_BYTES:
        raise ValueError("not r || s")
    return encode_dss_signature(int.from_bytes(compact[:32], "big"), int.from_bytes(compact[32:], "big"))
