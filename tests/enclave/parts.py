"""A scripted NSM, a clock that the test moves, and a clean log, for the tests of the enclave's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError, NsmErrorCode
from local.measurements import measure
from local.nitro_authority import NitroAuthority
from local.nsm import StandInNsm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocol.clock import Clock

MEASUREMENTS = measure(b"config", b"code")


class Time:
    """A clock that the test moves."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Switch:
    """An NSM transport that counts requests and can be switched off."""

    def __init__(self, clock: Clock, authority: NitroAuthority | None = None) -> None:
        self._nsm = StandInNsm(authority or NitroAuthority.create(now_s=clock()), MEASUREMENTS, clock=clock)
        self.trust_root = self._nsm.trust_root
        self.is_broken = False
        self.requests = 0

    def __call__(self, request: bytes) -> bytes:
        """Answer, or not."""
        self.requests += 1
        if self.is_broken:
            raise NsmError(NsmErrorCode.INTERNAL_ERROR, "switched off")
        return self._nsm(request)


def make_nsm(switch: Switch) -> Nsm:
    """Return the asynchronous side."""
    return Nsm(switch)


def captured(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of events."""
    return [entry["event"] for entry in log]
