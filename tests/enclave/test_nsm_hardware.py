"""The NSM of a real enclave. Runs inside one only."""

import secrets
import time
from pathlib import Path

import pytest

from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError, NsmErrorCode
from enclave.nsm_device import NSM_DEVICE_PATH, DevNsm
from enclave.selftest import check_nsm
from protocol.attestation import PRESENT, AtClock, DocumentPolicy, parse_document

pytestmark = [
    pytest.mark.nitro,
    pytest.mark.skipif(not Path(NSM_DEVICE_PATH).exists(), reason=f"no {NSM_DEVICE_PATH}: not in a Nitro Enclave"),
]


async def test_a_real_module_attests_what_it_describes() -> None:
    """Start check, then a document with all three fields at full size that verifies to the AWS root with our PCR0."""
    nsm = Nsm(DevNsm())
    facts = await check_nsm(nsm, allow_debug=True)
    user_data, nonce, public_key = (secrets.token_bytes(1024) for _ in range(3))
    document = parse_document(await nsm.attest(user_data=user_data, nonce=nonce, public_key=public_key))
    policy = DocumentPolicy(
        pcrs={0: [facts.pcr0]}, nonce=nonce, public_key=PRESENT, user_data=user_data, allow_debug=True
    )
    at = AtClock(now_s=time.time(), max_age_s=60, max_future_s=60)
    verified = document.verify(nsm.trust_root, policy, at)
    assert verified.module_id == facts.module_id
    assert verified.public_key == public_key
    nsm.close()


async def test_a_real_module_guards_its_pcrs() -> None:
    """PCR0 is locked; an index beyond the last is refused; a request over 4096 bytes is too large."""
    nsm = Nsm(DevNsm())
    with pytest.raises(NsmError) as caught:
        await nsm.extend_pcr(0, b"x")
    assert caught.value.code == NsmErrorCode.READ_ONLY_INDEX
    with pytest.raises(NsmError) as caught:
        await nsm.describe_pcr(32)
    assert caught.value.code == NsmErrorCode.INVALID_INDEX
    with pytest.raises(NsmError) as caught:
        await nsm.attest(user_data=bytes(5000), nonce=None, public_key=None)
    assert caught.value.code == NsmErrorCode.INPUT_TOO_LARGE
    nsm.close()
