"""Keeps the system clock near attested time: TLS validity and SigV4 both read the system clock.

The time in an attestation document comes from the hypervisor and is signed. An enclave's own clock drifts, and nobody
runs NTP inside.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeAlias

import structlog

from config.enclave import ClockSettings
from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError
from enclave.readiness import Readiness
from protocol.attestation import AttestationError, parse_document
from protocol.clock import Clock

_CORRECT_ABOVE_S: Final = 1.0
"""Smaller offsets are left alone: the reading itself takes milliseconds."""

_LOOK_AGAIN_S: Final = 10.0
"""After a check that failed: until one succeeds nobody knows how far the clock is off."""

ClockSetter: TypeAlias = Callable[[float], None]
"""Sets the system clock to Unix time in seconds; raises `OSError` where that is not permitted."""

_log = structlog.get_logger()


def set_system_clock(time_s: float) -> None:
    """Set the system clock; needs CAP_SYS_TIME."""
    time.clock_settime(time.CLOCK_REALTIME, time_s)


class AttestedClock:
    """Compares, corrects, and says when it cannot."""

    def __init__(self, nsm: Nsm, settings: ClockSettings, clock: Clock, setter: ClockSetter | None) -> None:
        """Take the device, the bounds, the system clock, and its setter; None where the clock is not ours to set."""
        self._nsm = nsm
        self._settings = settings
        self._clock = clock
        self._setter = setter

    async def watch(self, readiness: Readiness) -> None:
        """Check now and at each interval until cancelled; sooner again when the module did not tell the time."""
        while True:
            is_known = await self.check(readiness)
            interval_s = self._settings.check_interval_s
            await asyncio.sleep(interval_s if is_known else min(interval_s, _LOOK_AGAIN_S))

    async def check(self, readiness: Readiness) -> bool:
        """Compare once; correct if need be and permitted; else tell `readiness` when the bound is passed.

        Returns:
            whether the attested time could be read; when not, `readiness` stays as it was.
        """
        try:
            offset_s = await self._offset_s()
            if abs(offset_s) > _CORRECT_ABOVE_S and self._correct(offset_s):
                offset_s = await self._offset_s()
        except (NsmError, AttestationError) as error:
            _log.warning("clock_check_failed", error_type=type(error).__name__)
            return False
        readiness.is_clock_off = abs(offset_s) > self._settings.max_drift_s
        if readiness.is_clock_off:
            _log.error("clock_drift", offset_s=round(offset_s, 3))
        return True

    async def _offset_s(self) -> float:
        document = parse_document(await self._nsm.attest(user_data=None, nonce=None, public_key=None))
        return document.timestamp_ms / 1000 - self._clock()

    def _correct(self, offset_s: float) -> bool:
        if self._setter is None:
            return False
        try:
            self._setter(self._clock() + offset_s)
        except OSError:
            _log.warning("clock_not_settable", offset_s=round(offset_s, 3))
            return False
        _log.info("clock_set", offset_s=round(offset_s, 3))
        return True
