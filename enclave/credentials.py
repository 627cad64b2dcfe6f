"""The AWS credentials that the parent lends to the enclave. They are kept in one place and shown nowhere."""

from dataclasses import dataclass, field

from protocol.clock import Clock
from protocol.messages import NotReadyReason, SetCredentials


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """What a call to KMS is signed with."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)


class CredentialStore:
    """The newest credentials and how long they last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._current: AwsCredentials | None = None
        self._expires_at_s: int | None = None

    def replace(self, pushed: SetCredentials) -> None:
        """Take new credentials; those that expire before the ones at hand are taken too: the parent may have to."""
        self._current = AwsCredentials(pushed.access_key_id, pushed.secret_access_key, pushed.session_token)
        self._expires_at_s = pushed.expires_at_s

    @property
    def current(self) -> AwsCredentials | None:
        """The credentials, expired or not."""
        return self._current

    @property
    def expires_in_s(self) -> int | None:
        """Seconds left, negative when expired; None without credentials or when they do not expire."""
        return None if self._expires_at_s is None else int(self._expires_at_s - self._clock())

    @property
    def not_ready_reason(self) -> NotReadyReason | None:
        """Why KMS cannot be called, as far as credentials go."""
        if self._current is None:
            return NotReadyReason.NO_CREDENTIALS
        left = self.expires_in_s
        if left is not None and left <= 0:
            return NotReadyReason.CREDENTIALS_EXPIRED
        return None
