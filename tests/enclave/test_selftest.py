"""The start check of the NSM: each reason for which an enclave must not take work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from enclave.nsm import Nsm
from enclave.selftest import NsmFacts, StartCheckError, check_nsm
from protocol.attestation import TrustRoot
from protocol.cbor import decode, encode
from protocol.messages import NotReadyReason

if TYPE_CHECKING:
    from collections.abc import Callable

PCR0 = b"\x11" * 48
FAIR = bytes(range(256))
DESCRIPTION = {
    "version_major": 1,
    "version_minor": 2,
    "version_patch": 3,
    "module_id": "i-0-enc0",
    "max_pcrs": 32,
    "locked_pcrs": list(range(16)),
    "digest": "SHA384",
}


class ScriptedNsm:
    """A module whose answers the test chooses; each draw of randomness is the next of a list, then starts over."""

    trust_root = TrustRoot(bytes(32))

    def __init__(
        self,
        *,
        description: dict[str, Any] | None = None,
        pcr0: dict[str, Any] | None = None,
        random: list[bytes] | None = None,
    ) -> None:
        self._description = DESCRIPTION | (description or {})
        self._pcr0 = {"lock": True, "data": PCR0} | (pcr0 or {})
        self._random = random or [FAIR, FAIR, FAIR[::-1], FAIR]
        self._draws = 0

    def __call__(self, request: bytes) -> bytes:
        """Answer a request of the start check."""
        match decode(request):
            case "DescribeNSM":
                return encode({"DescribeNSM": self._description})
            case {"DescribePCR": {"index": 0}}:
                return encode({"DescribePCR": self._pcr0})
            case _:
                self._draws += 1
                return encode({"GetRandom": {"random": self._random[(self._draws - 1) % len(self._random)]}})


async def check(transport: Callable[[bytes], bytes], *, allow_debug: bool = False) -> NsmFacts:
    """Run the start check over a transport."""
    nsm = Nsm(transport)  # type: ignore[arg-type]  # every transport of this module has a trust root
    try:
        return await check_nsm(nsm, allow_debug=allow_debug)
    finally:
        nsm.close()


async def test_a_healthy_module_gives_its_facts() -> None:
    """What the check has read is what the enclave says of itself."""
    assert await check(ScriptedNsm()) == NsmFacts(module_id="i-0-enc0", version=(1, 2, 3), pcr0=PCR0, is_debug=False)


async def test_debug_mode_needs_consent() -> None:
    """A zero PCR0 keeps the enclave from starting, unless its measured config consents."""
    transport = ScriptedNsm(pcr0={"data": bytes(48)})
    with pytest.raises(StartCheckError) as caught:
        await check(transport)
    assert caught.value.reason == NotReadyReason.DEBUG_MODE
    facts = await check(ScriptedNsm(pcr0={"data": bytes(48)}), allow_debug=True)
    assert facts.is_debug is True


@pytest.mark.parametrize(
    "transport",
    [
        pytest.param(ScriptedNsm(description={"digest": "SHA256"}), id="another digest"),
        pytest.param(ScriptedNsm(description={"locked_pcrs": [1, 2]}), id="PCR0 not among the locked"),
        pytest.param(ScriptedNsm(pcr0={"lock": False}), id="PCR0 unlocked"),
        pytest.param(ScriptedNsm(random=[bytes(256)]), id="zeros"),
        pytest.param(ScriptedNsm(random=[b"\xff" * 256, b"\x01" * 256]), id="constants"),
        pytest.param(ScriptedNsm(random=[FAIR]), id="the same draw again"),
        pytest.param(
            ScriptedNsm(random=[FAIR, FAIR, FAIR[:100] * 2, FAIR[:100] * 2, FAIR[:112]]), id="second sample poor"
        ),
    ],
)
async def test_a_module_that_fails_a_test_keeps_the_enclave_from_starting(transport: ScriptedNsm) -> None:
    """Each test of the check can fail, with the reason SELF_TEST_FAILED."""
    with pytest.raises(StartCheckError) as caught:
        await check(transport)
    assert caught.value.reason == NotReadyReason.SELF_TEST_FAILED


async def test_a_module_that_does_not_answer_is_unavailable() -> None:
    """Any NSM error during the check is NSM_UNAVAILABLE, and the text says which."""

    class Refusing(ScriptedNsm):
        def __call__(self, _: bytes) -> bytes:
            return b"\xa1\x65Error\x6dInternalError"

    with pytest.raises(StartCheckError, match="InternalError") as caught:
        await check(Refusing())
    assert caught.value.reason == NotReadyReason.NSM_UNAVAILABLE
