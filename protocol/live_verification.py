"""Verifies a live attestation: what an enclave answered to `Attest` becomes a `VerifiedLive`, or is refused.

The nonce proves that the answer is not older than the question, the document's PCR0 says which image answered, and its
`user_data` binds the facts: role, measured configuration, KMS key.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from protocol.attestation import (
    ABSENT,
    ANYTHING,
    AtClock,
    DocumentPolicy,
    TrustRoot,
    VerifiedDocument,
    parse_document,
)
from protocol.attestation.policy import Presence
from protocol.live import LiveFacts, live_user_data
from protocol.messages import AttestResult


@dataclass(frozen=True, slots=True)
class VerifiedLive:
    """What a running enclave is. Only `verify_live` makes one."""

    facts: LiveFacts
    document: VerifiedDocument


def verify_live(
    result: AttestResult,
    *,
    root: TrustRoot,
    pcr0: Collection[bytes] | Literal[Presence.ANYTHING],
    nonce: bytes,
    now_s: float,
    max_age_s: float,
) -> VerifiedLive:
    """Verify an enclave's answer.

    Args:
        result: as it came.
        root: the only root that is trusted.
        pcr0: the expected images, 48 bytes each; ANYTHING to learn which image answers, and to judge it afterwards.
        nonce: what the caller sent, made at random for this one question.
        now_s: the caller's clock, seconds since the Unix epoch.
        max_age_s: how far the document's time may lie from that clock, either way.

    Raises:
        AttestationError: names the first check of the document that failed.
        LiveFactsError: the enclave has attested bytes that are not the facts of a live attestation.
    """
    policy = DocumentPolicy(
        pcrs=ANYTHING if pcr0 is ANYTHING else {0: pcr0},
        nonce=nonce,
        public_key=ABSENT,
        user_data=live_user_data(result.facts),
    )
    at = AtClock(now_s=now_s, max_age_s=max_age_s, max_future_s=max_age_s)
    document = parse_document(result.document).verify(root, policy, at)
    return VerifiedLive(LiveFacts.from_bytes(result.facts), document)
