"""The check of the Nitro Secure Module before an enclave takes work. What fails here keeps the enclave `not_ready`."""

from dataclasses import dataclass
from typing import Final

from enclave.nsm import Nsm
from enclave.nsm_codec import PCR_BYTES, NsmError
from protocol.messages import NotReadyReason

_DIGEST: Final = "SHA384"
_SAMPLE_BYTES: Final = 512
_MIN_DISTINCT_BYTES: Final = 128
"""512 fair random bytes have 221 distinct values on average, with a standard deviation near 5. Fewer than 128 come from
a module that repeats itself. This finds a broken device; it does not measure entropy."""


class StartCheckError(Exception):
    """The enclave must not take work, for a reason of the closed set that `hello` tells. The text is for the log."""

    def __init__(self, reason: NotReadyReason, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class NsmFacts:
    """What the start check has found."""

    module_id: str
    version: tuple[int, int, int]
    pcr0: bytes
    """Measurement of the image; zero in debug mode."""

    is_debug: bool


async def check_nsm(nsm: Nsm, *, allow_debug: bool) -> NsmFacts:
    """Check that the module answers, measures, and draws randomness that is not constant.

    Args:
        nsm: the module of this enclave.
        allow_debug: the measured configuration's consent to debug mode, in which PCR0 is zero and proves nothing.

    Raises:
        StartCheckError: NSM_UNAVAILABLE, SELF_TEST_FAILED or DEBUG_MODE.
    """
    try:
        description = await nsm.describe()
        pcr0 = await nsm.describe_pcr(0)
        samples = await nsm.random(_SAMPLE_BYTES), await nsm.random(_SAMPLE_BYTES)
    except NsmError as error:
        raise StartCheckError(NotReadyReason.NSM_UNAVAILABLE, str(error)) from error
    if description.digest != _DIGEST:
        raise _failed(f"the module measures with {description.digest}, not {_DIGEST}")
    if not pcr0.is_locked or 0 not in description.locked_pcrs:
        raise _failed("PCR0 is not locked, so no document would carry it")
    if samples[0] == samples[1] or any(len(set(sample)) < _MIN_DISTINCT_BYTES for sample in samples):
        raise _failed("the module's randomness repeats itself")
    is_debug = pcr0.value == bytes(PCR_BYTES)
    if is_debug and not allow_debug:
        raise StartCheckError(NotReadyReason.DEBUG_MODE, "PCR0 is zero: the enclave runs in debug mode")
    return NsmFacts(module_id=description.module_id, version=description.version, pcr0=pcr0.value, is_debug=is_debug)


def _failed(text: str) -> StartCheckError:
    return StartCheckError(NotReadyReason.SELF_TEST_FAILED, text)
