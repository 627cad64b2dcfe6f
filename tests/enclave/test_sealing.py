"""Sealing: AES-256-GCM by published vectors, and every changed bit refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave import sealing
from enclave.cms import wipe
from enclave.sealing import NONCE_BYTES, SEALED_KEY_BYTES, open_sealed, seal
from protocol.errors import ErrorCode, SignerError

if TYPE_CHECKING:
    from pathlib import Path

KEY, DATA_KEY, NONCE, STATEMENT = bytes(range(32)), bytes(range(32, 64)), bytes(range(12)), b"statement"
SEALED = seal(KEY, DATA_KEY, NONCE, STATEMENT)
BYTES_32 = st.binary(min_size=32, max_size=32)


@given(BYTES_32, BYTES_32, st.binary(min_size=12, max_size=12), st.binary(max_size=400))
def test_what_was_sealed_opens(private_key: bytes, data_key: bytes, nonce: bytes, statement: bytes) -> None:
    """Into a buffer that can be wiped."""
    sealed = seal(private_key, data_key, nonce, statement)
    assert len(sealed) == SEALED_KEY_BYTES
    assert sealed[:NONCE_BYTES] == nonce
    opened = open_sealed(sealed, bytearray(data_key), statement)
    assert isinstance(opened, bytearray)
    assert opened == private_key


def refused(sealed: bytes, data_key: bytes, statement: bytes) -> bool:
    """Tell whether a record is refused with the one code."""
    with pytest.raises(SignerError) as error:
        open_sealed(sealed, data_key, statement)
    return error.value.code is ErrorCode.RECORD_REFUSED


@pytest.mark.parametrize("bit", range(SEALED_KEY_BYTES * 8))
def test_every_bit_of_a_sealed_key_counts(bit: int) -> None:
    """Nonce, ciphertext and tag."""
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    assert refused(bytes(changed), DATA_KEY, STATEMENT)


def test_another_data_key_or_statement() -> None:
    """The AAD is the statement: the same key under another statement is another record."""
    assert refused(SEALED, bytes(32), STATEMENT)
    assert refused(SEALED, DATA_KEY, STATEMENT + b"\0")
    assert refused(SEALED, DATA_KEY, b"")


@pytest.mark.parametrize("size", [0, 12, 28, SEALED_KEY_BYTES - 1, SEALED_KEY_BYTES + 1])
def test_a_sealed_key_has_one_length(size: int) -> None:
    """Refused before any cryptography."""
    assert refused(bytes(size), DATA_KEY, STATEMENT)


def test_wycheproof(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The AES-GCM vectors of our key, nonce and tag sizes, for plaintexts of every length that they have."""
    groups = json.loads((vectors / "signatures" / "wycheproof" / "aes_gcm_test.json").read_text())["testGroups"]
    ours = [group for group in groups if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128)]
    results = []
    for test in [test for group in ours for test in group["tests"]]:
        sealed = bytes.fromhex(test["iv"] + test["ct"] + test["tag"])
        key, aad, plaintext = (bytes.fromhex(test[name]) for name in ("key", "aad", "msg"))
        monkeypatch.setattr(sealing, "SEALED_KEY_BYTES", len(sealed))
        monkeypatch.setattr(sealing, "PRIVATE_KEY_BYTES", len(plaintext))
        results.append(test["result"])
        if test["result"] == "valid":
            assert open_sealed(sealed, key, aad) == plaintext
            assert seal(plaintext, key, sealed[:NONCE_BYTES], aad) == sealed
        else:
            assert refused(sealed, key, aad)
    assert set(results) == {"valid", "invalid"}


def test_a_refused_key_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a changed tag the library has opened the key before it says no: what it has written must not stay."""
    wiped: list[tuple[bytes, bytearray]] = []

    def remembered(buffer: bytearray) -> None:
        wiped.append((bytes(buffer), buffer))
        wipe(buffer)

    monkeypatch.setattr(sealing, "wipe", remembered)
    sealed = bytearray(seal(b"k" * 32, bytes(32), bytes(12), b"s"))
    sealed[-1] ^= 1
    with pytest.raises(SignerError):
        open_sealed(bytes(sealed), bytes(32), b"s")
    assert wiped == [(b"k" * 32, bytearray(32))]
