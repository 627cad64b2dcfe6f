"""AWS Signature Version 4 of one kind of request: a POST to the root of a host, with headers and a body. Pure.

IAM User Guide, "Create a signed AWS API request". The SDK signs any request, and derives its key for each of them anew;
this derives it once a day. A test holds both against each other.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class SigningCredentials:
    """What signs."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class _DerivedKey:
    """Good for one secret on one day."""

    secret_access_key: str = field(repr=False)
    day: str
    scope: str
    key: bytes = field(repr=False)


class Signer:
    """Signs requests to one service in one Region."""

    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region
        self._derived: _DerivedKey | None = None

    def sign(
        self, headers: Mapping[str, str], body: bytes, credentials: SigningCredentials, now_s: float
    ) -> dict[str, str]:
        """Return all headers to send: those given, the time, the session token if there is one, and the signature.

        Args:
            headers: with `host`; names in lower case, values without spaces at their ends or in a row.
            body: as it will be sent.
            credentials: a snapshot.
            now_s: seconds since the Unix epoch; AWS allows five minutes of difference.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        signed = {**headers, "x-amz-date": moment}
        if credentials.session_token is not None:
            signed["x-amz-security-token"] = credentials.session_token
        names = sorted(signed)
        shown = ";".join(names)
        lines = "".join([f"{name}:{signed[name]}\n" for name in names])
        request = f"POST\n/\n\n{lines}\n{shown}\n{hashlib.sha256(body).hexdigest()}"
        derived = self._derive(credentials.secret_access_key, moment[:8])
        text = f"{_ALGORITHM}\n{moment}\n{derived.scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(derived.key, text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key_id}/{derived.scope}, "
            f"SignedHeaders={shown}, Signature={signature}"
        )
        return signed

    def _derive(self, secret_access_key: str, day: str) -> _DerivedKey:
        derived = self._derived
        if derived is None or derived.day != day or derived.secret_access_key != secret_access_key:
            parts = (day, self._region, self._service, "aws4_request")
            key = f"AWS4{secret_access_key}".encode()
            for part in parts:
                key = hmac.digest(key, part.encode(), "sha256")
            derived = self._derived = _DerivedKey(secret_access_key, day, "/".join(parts), key)
        return derived
