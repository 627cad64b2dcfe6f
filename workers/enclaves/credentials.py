"""The AWS credentials that are lent to the enclaves: those of this process, as the SDK finds and renews them."""

from typing import TYPE_CHECKING, Protocol

from aiobotocore.session import AioSession
from pydantic import ValidationError

from protocol.clock import Clock
from protocol.messages import SetCredentials

if TYPE_CHECKING:
    from datetime import datetime


class NoCredentialsError(Exception):
    """There are none now; `code` says why: the name of what the SDK raised, or our own word."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class CredentialSource(Protocol):
    """Where credentials come from."""

    async def current(self) -> SetCredentials:
        """Return credentials that are valid now, renewed if they were about to expire.

        Raises:
            NoCredentialsError: none can be had.
        """
        ...


async def seconds_left(source: CredentialSource, clock: Clock) -> float | None:
    """Return the seconds until the credentials expire: 0 when there are none, None when they do not expire."""
    try:
        expires_at_s = (await source.current()).expires_at_s
    except NoCredentialsError:
        return 0.0
    return None if expires_at_s is None else max(0.0, expires_at_s - clock())


class SdkCredentials:
    """The SDK's chain: environment, profile, container, instance metadata.

    It renews temporary credentials 15 minutes before they expire, when asked for them within that time; so whoever
    asks every few seconds has the new ones long before the old ones end.
    """

    def __init__(self, session: AioSession) -> None:
        self._session = session

    async def current(self) -> SetCredentials:
        """Return a snapshot.

        Raises:
            NoCredentialsError: none can be had.
        """
        try:
            credentials = await self._session.get_credentials()
            frozen = None if credentials is None else await credentials.get_frozen_credentials()
        except Exception as error:  # the SDK lets through what its sources raise: of AWS, of files, of parsers
            raise NoCredentialsError(type(error).__name__) from error
        if frozen is None:
            raise NoCredentialsError("NoCredentials")
        # the SDK shows the time of expiry nowhere else; without it the enclave could not tell when it runs dry
        expires_at: datetime | None = getattr(credentials, "_expiry_time", None)
        try:
            return SetCredentials.model_validate(
                {
                    "access_key_id": frozen.access_key,
                    "secret_access_key": frozen.secret_key,
                    "session_token": frozen.token or None,  # AWS_SESSION_TOKEN may be set to nothing
                    "expires_at_s": None if expires_at is None else int(expires_at.timestamp()),
                }
            )
        except ValidationError:  # its text could show what it refused
            raise NoCredentialsError("MalformedCredentials") from None
