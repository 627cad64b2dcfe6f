"""Real attestation documents, and documents derived from them, each with its stated verdict.

They are not part of the project; the tests run where they lie beside it.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from protocol.attestation import (
    ANYTHING,
    AWS_NITRO_ROOT_G1,
    AtOwnTime,
    AttestationError,
    DocumentPolicy,
    FailedCheck,
    TrustRoot,
    parse_document,
)

FOLDER = Path(__file__).parents[3] / "shared" / "vectors" / "attestation"
ABSENT_REASON = "no attestation vectors at ../shared/vectors/attestation"


def _valid() -> list[Any]:
    manifest = FOLDER / "manifest.json"
    if not manifest.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=ABSENT_REASON))]
    return [pytest.param(entry, id=entry["file"]) for entry in json.loads(manifest.read_text())]


def _invalid() -> list[Any]:
    files = sorted((FOLDER / "invalid").glob("*.cbor"))
    return [pytest.param(file, id=file.name) for file in files] or [
        pytest.param(FOLDER, marks=pytest.mark.skip(reason=ABSENT_REASON))
    ]


DERIVED = {
    "sig_bitflip": FailedCheck.SIGNATURE,
    "sig_malleated_n_minus_s": None,
    "sig_all_zero": FailedCheck.SIGNATURE,
    "trailing_byte": FailedCheck.STRUCTURE,
    "truncated": FailedCheck.STRUCTURE,
    "tag18": None,
    "pcr0_bitflip": FailedCheck.SIGNATURE,
    "timestamp_changed": FailedCheck.SIGNATURE,
    "alg_es256": FailedCheck.STRUCTURE,
    "alg_in_unprotected": FailedCheck.STRUCTURE,
    "unprotected_nonempty": FailedCheck.STRUCTURE,
    "duplicate_key_pcrs": FailedCheck.STRUCTURE,
}
"""The manifest's verdicts as checks; None verifies."""


def policy(*, pcr0: str | None = None, allow_debug: bool = False) -> DocumentPolicy:
    """Return a policy that looks at debug mode and PCR0 only."""
    return DocumentPolicy(
        pcrs=ANYTHING if pcr0 is None else {0: [bytes.fromhex(pcr0)]},
        nonce=ANYTHING,
        public_key=ANYTHING,
        user_data=ANYTHING,
        allow_debug=allow_debug,
    )


@pytest.mark.parametrize("entry", _valid())
def test_a_real_document_verifies_to_the_aws_root_at_its_own_time(entry: dict[str, Any]) -> None:
    """Facts come out as the manifest has them; debug ones pass only where debug mode is allowed."""
    document = parse_document((FOLDER / entry["file"]).read_bytes())
    if entry["debug"]:
        with pytest.raises(AttestationError) as caught:
            document.verify(AWS_NITRO_ROOT_G1, policy(pcr0=entry["pcr0"]), AtOwnTime())
        assert caught.value.check == FailedCheck.DEBUG
    demands = policy(pcr0=entry["pcr0"], allow_debug=entry["debug"])
    verified = document.verify(AWS_NITRO_ROOT_G1, demands, AtOwnTime())
    assert verified.module_id == entry["module_id"]
    assert verified.timestamp_ms == round(datetime.fromisoformat(entry["time"]).timestamp() * 1000)
    assert verified.pcrs[0].hex() == entry["pcr0"]
    assert len(verified.pcrs) == entry["pcr_count"]
    assert verified.is_debug is entry["debug"]
    for name in ("public_key", "user_data", "nonce"):
        value = getattr(verified, name)
        stated = entry[name]
        assert (value is None) is (stated is None)
        if stated is not None:
            assert (len(value), value.hex().startswith(stated["hex"])) == (stated["len"], True)


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_a_derived_document_gets_its_stated_verdict(name: str) -> None:
    """Each is refused by the check that the manifest names, or verifies where it says so."""
    file = FOLDER / "derived" / f"{name}.cbor"
    if not file.exists():
        pytest.skip(ABSENT_REASON)
    expected = DERIVED[name]
    if expected is None:
        parse_document(file.read_bytes()).verify(AWS_NITRO_ROOT_G1, policy(), AtOwnTime())
        return
    with pytest.raises(AttestationError) as caught:
        parse_document(file.read_bytes()).verify(AWS_NITRO_ROOT_G1, policy(), AtOwnTime())
    assert caught.value.check == expected


def test_every_derived_document_has_a_verdict_here() -> None:
    """A vector that is added to the folder is not passed over."""
    manifest = FOLDER / "derived" / "manifest.json"
    if not manifest.exists():
        pytest.skip(ABSENT_REASON)
    assert set(json.loads(manifest.read_text())["cases"]) == set(DERIVED)


@pytest.mark.parametrize("file", _invalid())
def test_a_document_that_others_use_as_bad_input_is_refused(file: Path) -> None:
    """Bad signature, changed signature, self-signed without a chain."""
    with pytest.raises(AttestationError):
        parse_document(file.read_bytes()).verify(AWS_NITRO_ROOT_G1, policy(allow_debug=True), AtOwnTime())


def test_the_pinned_fingerprint_is_the_published_roots() -> None:
    """The constant is the SHA-256 of the certificate that AWS publishes."""
    pem = FOLDER / "aws_nitro_root_g1.pem"
    if not pem.exists():
        pytest.skip(ABSENT_REASON)
    assert TrustRoot.from_pem(pem.read_bytes()) == AWS_NITRO_ROOT_G1
