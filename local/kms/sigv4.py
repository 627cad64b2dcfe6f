"""Checks AWS Signature Version 4 of a request (IAM User Guide, "Create a signed AWS API request")."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from local.kms.errors import KmsError

MAX_SKEW_S: Final = 15 * 60
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/([0-9]{8})/([^/,\s]+)/([^/,\s]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """An HTTP request: method, path as sent, headers with names in lower case, body. KMS has no query string."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Authorization:
    """The parts of an Authorization header; nothing is checked yet."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @classmethod
    def parse(cls, header: str | None) -> Self:
        """Take the header apart.

        Raises:
            KmsError: MissingAuthenticationTokenException or IncompleteSignatureException.
        """
        if header is None:
            raise KmsError("MissingAuthenticationTokenException", "Request is missing Authentication Token")
        if (found := _AUTHORIZATION.fullmatch(header)) is None:
            raise KmsError("IncompleteSignatureException", "Authorization header does not have its parts.")
        return cls(found[1], found[2], found[3], found[4], tuple(found[5].split(";")), found[6])

    def verify(self, request: SignedRequest, secret_access_key: str, *, region: str, now_s: float) -> None:
        """Check the signature and the time of signing.

        Raises:
            KmsError: InvalidSignatureException, or IncompleteSignatureException for a header that is not there.
        """
        amz_date = request.headers.get("x-amz-date", "")
        _check_time(amz_date, now_s)
        if (self.date, self.region, self.service) != (amz_date[:8], region, "kms"):
            raise KmsError("InvalidSignatureException", f"Credential should be scoped to {region}/kms and the date.")
        if not {"host", "x-amz-date"} <= set(self.signed_headers):
            raise KmsError("InvalidSignatureException", "'host' and 'x-amz-date' must be signed headers.")
        expected = self._sign(request, secret_access_key, amz_date)
        if not hmac.compare_digest(expected, self.signature):
            raise KmsError("InvalidSignatureException", _MISMATCH)

    def _sign(self, request: SignedRequest, secret_access_key: str, amz_date: str) -> str:
        if missing := [name for name in self.signed_headers if name not in request.headers]:
            raise KmsError("IncompleteSignatureException", f"signed header {missing[0]} is not in the request")
        headers = "".join(f"{name}:{' '.join(request.headers[name].split())}\n" for name in self.signed_headers)
        canonical = "\n".join(
            (
                request.method,
                request.path,
                "",
                headers,
                ";".join(self.signed_headers),
                hashlib.sha256(request.body).hexdigest(),
            )
        )
        scope = f"{self.date}/{self.region}/{self.service}/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{secret_access_key}".encode()
        for part in (self.date, self.region, self.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _check_time(amz_date: str, now_s: float) -> None:
    try:
        signed_at = datetime.strptime(amz_date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise KmsError("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'") from error
    if signed_at.timestamp() < now_s - MAX_SKEW_S:
        raise KmsError("InvalidSignatureException", f"Signature expired: {amz_date} is more than 15 min old.")
    if signed_at.timestamp() > now_s + MAX_SKEW_S:
        raise KmsError("InvalidSignatureException", f"Signature not yet current: {amz_date} is over 15 min ahead.")
