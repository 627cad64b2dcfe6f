"""The stand-in's verifier on real documents, and on those derived from one: the verdicts of the library, at their time.

They are not part of the project; the tests run where they lie beside it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from local.kms.errors import KmsError
from local.kms.recipients import MAX_AGE_S, DocumentVerifier
from protocol.attestation import AWS_NITRO_ROOT_G1
from tests.protocol.test_attestation_vectors import DERIVED

if TYPE_CHECKING:
    from pathlib import Path

RSA_2048_SPKI_BYTES = 294


def verdict(file: Path, time_s: float) -> str:
    """Return the enclave behind a document, or the refusal, under the root of real hardware."""
    try:
        return DocumentVerifier([AWS_NITRO_ROOT_G1], lambda: time_s).verify(file.read_bytes()).module_id
    except KmsError as error:
        return str(error)


def time_of(entry: dict[str, Any]) -> float:
    """Return when a document was made."""
    return datetime.fromisoformat(entry["time"]).timestamp()


def test_real_documents(vectors: Path) -> None:
    """One with an RSA key is taken for five minutes and not longer; one without a key to answer to is refused."""
    folder = vectors / "attestation"
    taken = 0
    for entry in json.loads((folder / "manifest.json").read_text()):
        at = time_of(entry)
        key = entry["public_key"]
        found = verdict(folder / entry["file"], at)
        if key is not None and key["len"] == RSA_2048_SPKI_BYTES:
            assert found == entry["module_id"]
            assert "time" in verdict(folder / entry["file"], at + MAX_AGE_S + 1)
            taken += 1
        else:
            assert "public_key is absent" in found or "public key of the attestation document is invalid" in found
    assert taken == 3


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_derived_documents(vectors: Path, name: str) -> None:
    """Each is refused by the stated check, or taken where the library verifies it."""
    folder = vectors / "attestation"
    base = json.loads((folder / "derived" / "manifest.json").read_text())["base"]
    [entry] = [entry for entry in json.loads((folder / "manifest.json").read_text()) if entry["file"] == base]
    check = DERIVED[name]
    found = verdict(folder / "derived" / f"{name}.cbor", time_of(entry))
    assert found == entry["module_id"] if check is None else f"invalid: {check}:" in found


def test_documents_of_others_that_are_bad(vectors: Path) -> None:
    """Bad signature, changed signature, self-signed: at no time of theirs."""
    files = sorted((vectors / "attestation" / "invalid").glob("*.cbor"))
    assert len(files) == 3
    for file in files:
        assert verdict(file, 1_721_700_000.0).startswith("ValidationException: The attestation document is invalid: ")
