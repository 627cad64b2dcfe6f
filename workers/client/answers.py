"""Judges answers: what a reply claims becomes a key or a signature only when it is proven. Pure."""

from protocol.birth import BirthCertificate
from protocol.birth_verification import BirthRefusedError, verify_birth
from protocol.errors import ErrorCode, SignerError
from protocol.forms import digest_of
from protocol.jobs import ErrorReply, GenerateJob, GenerateReply, Reply, SignJob, SignReply
from workers.client.errors import AnswerRefusedError, JobFailedError
from workers.client.settings import BirthTrust
from workers.client.values import PublicKey, Signature
from workers.verify import verify_signature


def born_key(job: GenerateJob, reply: Reply, trust: BirthTrust, known: PublicKey | None) -> PublicKey:
    """Return the key that a reply proves to have been born for the user id of the job.

    Args:
        job: what was asked.
        reply: what came.
        trust: whose word is taken.
        known: the key that this user id has so far. Another one is refused, however well it is certified: an owner of
            the parent can have a second key made for the same user id.

    Raises:
        JobFailedError: the reply is an error.
        AnswerRefusedError: `birth_refused`, with the check that failed.
    """
    if isinstance(reply, ErrorReply):
        raise _failed(reply)
    if not isinstance(reply, GenerateReply):
        raise _refused(ErrorCode.BIRTH_REFUSED, "the reply is not one to a generate job", job.job_id)
    try:
        public_key = bytes.fromhex(reply.publickey)
        certificate = BirthCertificate.from_base64(reply.birth_certificate)
        birth = verify_birth(
            certificate, root=trust.root, pcr0=trust.generator_pcr0, userid=job.userid, public_key=public_key
        )
    except (ValueError, BirthRefusedError) as error:  # a BirthCertificateError is a ValueError
        raise _refused(ErrorCode.BIRTH_REFUSED, str(error), job.job_id) from error
    if known is not None and known.xy != public_key:
        detail = "the key is well certified, but it is not the one that this client trusts for this user id"
        raise _refused(ErrorCode.BIRTH_REFUSED, detail, job.job_id)
    return PublicKey(job.userid, public_key, birth)


def proven_signature(job: SignJob, reply: Reply, key: PublicKey) -> Signature:
    """Return the signature of a reply if it is by this key, over the message of the job, in the form of the job.

    Raises:
        JobFailedError: the reply is an error.
        AnswerRefusedError: `signature_refused`.
    """
    if isinstance(reply, ErrorReply):
        raise _failed(reply)
    if not isinstance(reply, SignReply):
        raise _refused(ErrorCode.SIGNATURE_REFUSED, "the reply is not one to a sign job", job.job_id)
    digest = digest_of(job.message_bytes, job.digest)
    try:
        data = bytes.fromhex(reply.signature)
        verify_signature(data, digest, key.xy, job.scheme, job.format)
    except (ValueError, SignerError) as error:
        detail = "the signature is not by the trusted key over this message, in the form that was asked for"
        raise _refused(ErrorCode.SIGNATURE_REFUSED, detail, job.job_id) from error
    return Signature(data, digest, key, job.scheme, job.format, job.job_id)


def _failed(reply: ErrorReply) -> JobFailedError:
    return JobFailedError(reply.error.code, reply.error.message, job_id=reply.job_id)


def _refused(code: ErrorCode, detail: str, job_id: str) -> AnswerRefusedError:
    return AnswerRefusedError(code, detail, job_id=job_id)
