"""Signature Version 4, held against the SDK's own signer."""

import re
from datetime import UTC, datetime

import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from workers.sigv4 import Signer, SigningCredentials

KEYS = SigningCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
HEADERS = {"host": "sqs.eu-west-1.amazonaws.com", "x-amz-target": "AmazonSQS.ReceiveMessage"}

printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
values = st.lists(printable, min_size=1, max_size=3).map(" ".join)
names = st.from_regex(r"x-[a-z0-9-]{1,20}", fullmatch=True).filter(
    lambda name: name not in {"x-amz-date", "x-amz-security-token", "x-amzn-trace-id", "x-amz-content-sha256"}
)


def of_the_sdk(
    headers: dict[str, str], body: bytes, keys: SigningCredentials, scope: tuple[str, str], now_s: int
) -> str:
    """Return the Authorization header that the SDK makes."""
    request = AWSRequest("POST", f"https://{headers['host']}/", headers=dict(headers), data=body)
    credentials = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(now_s, UTC))
        SigV4Auth(credentials, *scope).add_auth(request)
    return str(request.headers["Authorization"])


@given(
    extra=st.dictionaries(names, values, max_size=4),
    body=st.binary(max_size=300),
    keys=st.builds(SigningCredentials, printable, printable, st.none() | printable),
    scope=st.tuples(st.sampled_from(["sqs", "dynamodb"]), st.sampled_from(["eu-west-1", "us-gov-east-1"])),
    now_s=st.integers(0, 4_000_000_000),
)
def test_signs_as_the_sdk_does(
    extra: dict[str, str], body: bytes, keys: SigningCredentials, scope: tuple[str, str], now_s: int
) -> None:
    """Any headers, body, credentials, scope and time give the SDK's own signature over the same headers."""
    headers = {**HEADERS, **extra}
    signed = Signer(*scope).sign(headers, body, keys, now_s)
    assert signed["authorization"] == of_the_sdk(headers, body, keys, scope, now_s)
    assert signed.items() >= headers.items()
    assert signed.get("x-amz-security-token") == keys.session_token


def test_derived_key_lives_for_one_day_and_one_secret() -> None:
    """One signer signs rightly across midnight, across renewed credentials, and back."""
    signer = Signer("sqs", "eu-west-1")
    renewed = SigningCredentials("ASIAEXAMPLE", "another-secret", "token")
    midnight_s = 20_000 * 86_400
    for keys, now_s in [(KEYS, midnight_s - 1), (KEYS, midnight_s), (renewed, midnight_s), (KEYS, midnight_s + 1)]:
        expected = of_the_sdk(HEADERS, b"{}", keys, ("sqs", "eu-west-1"), now_s)
        assert signer.sign(HEADERS, b"{}", keys, now_s)["authorization"] == expected


def test_shows_no_secret() -> None:
    """Neither what signs nor the signer with its derived key has a `repr` with a secret in it."""
    signer = Signer("sqs", "eu-west-1")
    keys = SigningCredentials("AKIDEXAMPLE", "sesame", "toktok")
    signer.sign(HEADERS, b"{}", keys, 0)
    assert "AKIDEXAMPLE" in repr(keys)
    assert re.search("sesame|toktok", repr(keys) + repr(signer) + repr(signer._derived)) is None
