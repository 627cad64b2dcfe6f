"""Whether this server process may work, and if not, the one reason that `hello` tells."""

from dataclasses import dataclass

from enclave.credentials import CredentialStore
from protocol.messages import NotReadyReason


@dataclass(slots=True)
class Readiness:
    """The three things that can keep an enclave from working, the most lasting first."""

    credentials: CredentialStore
    start_failure: NotReadyReason | None = NotReadyReason.STARTING
    """Set once at start; stays until the enclave is started anew."""

    is_clock_off: bool = False

    @property
    def reason(self) -> NotReadyReason | None:
        """Why not; None when ready."""
        if self.start_failure is not None:
            return self.start_failure
        if self.is_clock_off:
            return NotReadyReason.CLOCK_DRIFT
        return self.credentials.not_ready_reason
