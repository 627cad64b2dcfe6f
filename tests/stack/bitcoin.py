"""Takes a Bitcoin transaction apart and hashes its inputs, from the BIPs alone: what judges the Bitcoin example."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

ALL = 1
"""SIGHASH_ALL."""


def double_sha256(data: bytes) -> bytes:
    """Bitcoin's hash."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


@dataclass(frozen=True, slots=True)
class Input:
    """One output that is spent."""

    outpoint: bytes
    sequence: bytes
    pushes: list[bytes]
    """What its script or its witness holds: a signature and a public key."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        self.place += count
        assert self.place <= len(self._data)
        return self._data[self.place - count : self.place]

    def text(self) -> bytes:
        """Read a length below 253 and as many bytes."""
        return self.take(self.take(1)[0])


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A SegWit transaction (BIP-144) with fewer than 253 inputs and outputs."""

    inputs: list[Input]
    outputs: bytes
    lock_time: bytes

    @classmethod
    def parse(cls, raw: bytes) -> SignedTransaction:
        """Read all of it."""
        reader = _Reader(raw)
        assert reader.take(6) == struct.pack("<i", 2) + b"\x00\x01"
        spent = [(reader.take(36), reader.text(), reader.take(4)) for _ in range(reader.take(1)[0])]
        begin = reader.place + 1
        for _ in range(reader.take(1)[0]):
            reader.take(8)
            reader.text()
        outputs = raw[begin : reader.place]
        witnesses = [[reader.text() for _ in range(reader.take(1)[0])] for _ in spent]
        lock_time = reader.take(4)
        assert reader.place == len(raw)
        inputs = [
            Input(outpoint, sequence, witness or _pushes(script))
            for (outpoint, script, sequence), witness in zip(spent, witnesses, strict=True)
        ]
        return cls(inputs, outputs, lock_time)

    def segwit_hash(self, place: int, script_code: bytes, amount: int) -> bytes:
        """Return what input `place` signs as SegWit version 0 (BIP-143)."""
        spent = self.inputs[place]
        return double_sha256(
            struct.pack("<i", 2)
            + double_sha256(b"".join(each.outpoint for each in self.inputs))
            + double_sha256(b"".join(each.sequence for each in self.inputs))
            + spent.outpoint
            + bytes([len(script_code)])
            + script_code
            + struct.pack("<q", amount)
            + spent.sequence
            + double_sha256(self.outputs)
            + self.lock_time
            + struct.pack("<I", ALL)
        )

    def legacy_hash(self, place: int, script_code: bytes, output_count: int) -> bytes:
        """Return what input `place` signs without SegWit: every other script is empty."""
        inputs = b"".join(
            each.outpoint + (bytes([len(script_code)]) + script_code if i == place else b"\x00") + each.sequence
            for i, each in enumerate(self.inputs)
        )
        return double_sha256(
            struct.pack("<i", 2)
            + bytes([len(self.inputs)])
            + inputs
            + bytes([output_count])
            + self.outputs
            + self.lock_time
            + struct.pack("<I", ALL)
        )


def _pushes(script: bytes) -> list[bytes]:
    reader = _Reader(script)
    found: list[bytes] = []
    while reader.place < len(script):
        found.append(reader.text())  # a length below 76 is the opcode that pushes as many bytes
    return found


def pay_to_public_key_hash(public_key: bytes) -> bytes:
    """Return the script that pays to a key: the script code of P2PKH and of P2WPKH (BIP-143)."""
    return b"\x76\xa9\x14" + hashlib.new("ripemd160", hashlib.sha256(public_key).digest()).digest() + b"\x88\xac"
