"""Everything that leaves an enclave, searched for everything that must not."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING, Any

import pytest

from enclave import generator as generator_module
from enclave import kms as kms_module
from enclave import signer as signer_module
from enclave.keypair import KeyPair, derive_private_key
from protocol.address import UnixAddress
from protocol.channel import open_channel
from protocol.errors import SignerError
from protocol.messages import Attest, Status
from protocol.session import ClientSession
from tests.enclave.stand import TIMEOUT_S, Stand, set_credentials, sign_item, standing, without_hardening
from tests.protocol.wire import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enclave.recipient import Recipient
    from protocol.messages import Events
    from protocol.session import ClientEvent


class Secrets:
    """What must never leave, as it comes into being; and all that has left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: list[bytes] = []
        self.left = bytearray()
        opened, received = kms_module._open, ClientSession.receive_data

        def remembered_open(answer: dict[str, Any], recipient: Recipient) -> bytearray:
            plaintext = opened(answer, recipient)
            self.known.extend(bytes(plaintext[start : start + 32]) for start in range(0, len(plaintext), 32))
            return plaintext

        def remembered_derive(kms_seed: bytearray, nsm_seed: bytearray) -> bytes | None:
            private_key = derive_private_key(kms_seed, nsm_seed)
            self.known += [bytes(kms_seed), bytes(nsm_seed), private_key or b""]
            return private_key

        def remembered_receive(session: ClientSession, data: bytes) -> Iterator[ClientEvent]:
            self.left += data
            return received(session, data)

        monkeypatch.setattr(kms_module, "_open", remembered_open)
        monkeypatch.setattr(generator_module, "derive_private_key", remembered_derive)
        monkeypatch.setattr(ClientSession, "receive_data", remembered_receive)

    def found(self) -> list[bytes]:
        """Return the secrets that have left, in any of the forms in which bytes are written."""
        assert all(len(secret) >= 32 for secret in self.known)
        left = bytes(self.left)
        return [
            secret
            for secret in self.known
            for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:-2], repr(secret)[2:-1].encode())
            if form in left
        ]


async def _use_and_abuse(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do all that an enclave can do, and have each of it fail in each way at hand."""
    record = (await stand.new_key("u1")).record
    other = (await stand.new_key("u2")).record
    third = (await stand.new_key("u3")).record
    await stand.sign("u1", record)
    for part in ("statement", "sealed_key", "encrypted_data_key"):
        value = getattr(record, part)
        for changed in (getattr(other, part), value[:-1] + bytes([value[-1] ^ 1]), b"", value[:-1]):
            await stand.refusal("u1", record.model_copy(update={part: changed}))
    for channel in (stand.generator, stand.signer):
        await channel.call(Status(), timeout_s=TIMEOUT_S)
        await channel.call(Attest(nonce=bytes(16)), timeout_s=TIMEOUT_S)

    def tell(key: KeyPair, *_: object) -> bytes:
        raise RuntimeError(f"a bug that quotes {key._key.secret.hex()}")

    with monkeypatch.context() as patch:
        patch.setattr(KeyPair, "sign", tell)
        assert await stand.refusal("u2", other) == "internal"  # opened first, while others wait
        with pytest.raises(SignerError, match="internal"):
            await stand.sign_items(sign_item("u1", record))  # from the cache

    def quote(private_key: bytearray) -> KeyPair:
        raise ValueError(f"a library that quotes {private_key.hex()}")

    with monkeypatch.context() as patch:
        patch.setattr(signer_module, "KeyPair", quote)
        assert await stand.refusal("u3", third) == "record_refused"
    expired = set_credentials(stand.access.signer, expires_in_s=-1)
    await stand.signer.call(expired, timeout_s=TIMEOUT_S)


def names_of(events: list[Events]) -> set[str]:
    """Return the names of log events."""
    return {event["event"] for notice in events for event in notice.events}


async def test_no_secret_leaves_an_enclave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither keys, data keys, seeds nor credentials: in no frame, event, log line, error or output, whatever fails."""
    without_hardening(monkeypatch)
    secrets = Secrets(monkeypatch)
    events: list[Events] = []
    async with standing(tmp_path) as stand:
        listening = UnixAddress(str(tmp_path / "signer"))
        async with open_channel(listening, software="t", timeout_s=TIMEOUT_S, on_events=events.append):
            await _use_and_abuse(stand, monkeypatch)
            logging.getLogger("asyncio").error("as asyncio does", exc_info=RuntimeError(secrets.known[0].hex()))
            async with asyncio.timeout(TIMEOUT_S):
                await until(lambda: {"item_failed", "library_report"} <= names_of(events))
        for access in (stand.access.generator, stand.access.signer):
            secrets.known += [access.secret_access_key.encode(), access.session_token.encode()]
    output = capfd.readouterr()
    secrets.left += (output.out + output.err + repr(events)).encode()
    assert len(secrets.known) > 40
    assert secrets.found() == []
