"""Credentials of the SDK as a snapshot with its time of expiry."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import ClientError, CredentialRetrievalError

from workers.enclaves.credentials import NoCredentialsError, SdkCredentials

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AioSession:
    """A session that finds nothing on this machine."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return get_session()


async def test_lasting_credentials_have_no_expiry(session: AioSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment are passed on as they are."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "")
    credentials = await SdkCredentials(session).current()
    assert (credentials.access_key_id, credentials.session_token) == ("AKIAEXAMPLE", None)
    assert credentials.expires_at_s is None
    assert "made-up" not in repr(credentials)


async def test_temporary_credentials_are_renewed_and_tell_when_they_end(
    session: AioSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 15 minutes of their end the SDK is made to fetch new ones; their expiry is told."""
    now = datetime.now(UTC)
    fetched = 0

    async def refresh() -> dict[str, str]:
        nonlocal fetched
        fetched += 1
        return {
            "access_key": f"ASIA{fetched}",
            "secret_key": "made-up",
            "token": "made-up",
            "expiry_time": (now + timedelta(hours=fetched)).isoformat(),
        }

    found = AioRefreshableCredentials("ASIA0", "made-up", "made-up", now + timedelta(minutes=5), refresh, "test")

    async def get_credentials() -> AioRefreshableCredentials:
        return found

    monkeypatch.setattr(session, "get_credentials", get_credentials)
    source = SdkCredentials(session)
    first, second = await source.current(), await source.current()
    assert first == second
    assert first.access_key_id == "ASIA1"
    assert first.expires_at_s == int((now + timedelta(hours=1)).timestamp())


async def test_no_credentials_are_an_error_with_a_code(session: AioSession) -> None:
    """An empty chain is said, not passed on."""
    with pytest.raises(NoCredentialsError) as caught:
        await SdkCredentials(session).current()
    assert caught.value.code == "NoCredentials"


async def test_a_failing_source_is_an_error_with_a_code(session: AioSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK could not fetch is named by the SDK's own word."""

    async def get_credentials() -> None:
        raise CredentialRetrievalError(provider="iam-role", error_msg="x")

    monkeypatch.setattr(session, "get_credentials", get_credentials)
    with pytest.raises(NoCredentialsError, match="CredentialRetrievalError"):
        await SdkCredentials(session).current()


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRole"),
        FileNotFoundError("the token file of a web identity"),
        json.JSONDecodeError("what a credential process wrote", "", 0),
    ],
    ids=["client_error", "os_error", "value_error"],
)
async def test_whatever_a_source_raises_is_an_error_with_a_code(
    session: AioSession, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The SDK passes on what its sources raise: of AWS, of files, of parsers. None of it may end a worker."""

    async def get_credentials() -> None:
        raise error

    monkeypatch.setattr(session, "get_credentials", get_credentials)
    with pytest.raises(NoCredentialsError) as caught:
        await SdkCredentials(session).current()
    assert caught.value.code == type(error).__name__


async def test_renewed_credentials_that_are_expired_are_an_error_with_a_code(
    session: AioSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So says the SDK when instance metadata is late, or this machine's clock is ahead."""
    now = datetime.now(UTC)

    async def refresh() -> dict[str, str]:
        expiry_time = (now - timedelta(minutes=1)).isoformat()
        return {"access_key": "ASIA1", "secret_key": "made-up", "token": "made-up", "expiry_time": expiry_time}

    found = AioRefreshableCredentials("ASIA0", "made-up", "made-up", now - timedelta(minutes=2), refresh, "test")

    async def get_credentials() -> AioRefreshableCredentials:
        return found

    monkeypatch.setattr(session, "get_credentials", get_credentials)
    with pytest.raises(NoCredentialsError) as caught:
        await SdkCredentials(session).current()
    assert caught.value.code == "RuntimeError"


async def test_malformed_credentials_are_not_shown(session: AioSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that cannot be passed on stay out of the error and of its causes."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A" * 999)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    with pytest.raises(NoCredentialsError) as caught:
        await SdkCredentials(session).current()
    assert caught.value.code == "MalformedCredentials"
    assert caught.value.__cause__ is None
