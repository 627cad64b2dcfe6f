"""The condition keys that KMS derives from a request's attestation document and encryption context.

Source: KMS Developer Guide, "Condition keys for AWS Nitro Enclaves" and "AWS KMS condition keys". Without a document
the attestation keys are absent, which makes positive operators false and negated ones true.
"""

from collections.abc import Mapping
from typing import Final

IMAGE_KEY: Final = "kms:RecipientAttestation:ImageSha384"
"""Another name of PCR0."""

PCR_KEY_PREFIX: Final = "kms:RecipientAttestation:PCR"


def pcr_key(index: int) -> str:
    """Return the condition key of a PCR."""
    return f"{PCR_KEY_PREFIX}{index}"


def attestation_context(pcrs: Mapping[int, bytes]) -> dict[str, str]:
    """Return the condition keys of a verified document's PCRs, values in lower-case hexadecimal."""
    context = {pcr_key(index): value.hex() for index, value in pcrs.items()}
    if 0 in pcrs:
        context[IMAGE_KEY] = pcrs[0].hex()
    return context


def encryption_context_keys(encryption_context: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    """Return `kms:EncryptionContext:NAME` of each pair and the multi-valued `kms:EncryptionContextKeys`."""
    if not encryption_context:
        return {}
    pairs: dict[str, str | tuple[str, ...]] = {
        f"kms:EncryptionContext:{name}": value for name, value in encryption_context.items()
    }
    return {**pairs, "kms:EncryptionContextKeys": tuple(encryption_context)}
