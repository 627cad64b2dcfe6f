"""Why a connection was refused, failed or ended: closed sets, the same words in logs, metrics and documentation."""

from enum import StrEnum, unique


@unique
class Refusal(StrEnum):
    """The proxy would not serve this connection."""

    CAPACITY = "capacity"
    PEER_CID = "peer_cid"
    NOT_ALLOWED = "not_allowed"


@unique
class ConnectFailure(StrEnum):
    """The proxy wanted to serve it, and could not reach the destination."""

    DNS = "dns"
    REFUSED = "connect_refused"
    TIMEOUT = "connect_timeout"
    UNREACHABLE = "unreachable"
    DESCRIPTORS = "descriptors"
    OTHER = "connect_other"
    INTERNAL = "internal"


@unique
class RelayEnd(StrEnum):
    """How an established connection ended. A close is orderly, everything else is not."""

    CLIENT_CLOSED = "client_closed"
    UPSTREAM_CLOSED = "upstream_closed"
    CLIENT_RESET = "client_reset"
    UPSTREAM_RESET = "upstream_reset"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    DRAINED = "drained"

    @property
    def orderly(self) -> bool:
        """Whether one of the two ends chose to close, or was idle when the proxy drained."""
        return self in {RelayEnd.CLIENT_CLOSED, RelayEnd.UPSTREAM_CLOSED, RelayEnd.DRAINED}


class RefusedError(Exception):
    """The connection is refused for the reason in `cause`."""

    def __init__(self, cause: Refusal) -> None:
        super().__init__(cause)
        self.cause = cause


class ConnectError(Exception):
    """The destination could not be reached for the reason in `cause`; `detail` is an errno name, never foreign text."""

    def __init__(self, cause: ConnectFailure, detail: str = "") -> None:
        super().__init__(f"{cause} {detail}".rstrip())
        self.cause = cause
        self.detail = detail
