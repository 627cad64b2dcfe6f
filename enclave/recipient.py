"""The recipient of KMS's answers: a fresh RSA-2048 key that lives only here, and NSM documents that vouch for it.

KMS encrypts to the public key inside the document. Documents are used again for `document_ttl_s`, keys for
`recipient_key_ttl_s`; `rotate` renews both in the background, before anybody has to wait.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.enclave import AttestationSettings
from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError
from protocol.clock import Clock

_log = structlog.get_logger()

_RSA_BITS: Final = 2048
"""What every real envelope that was seen is encrypted to; KMS does not state the sizes that it takes."""

_RENEW_AT: Final = 0.5
"""The part of its time after which a document or key is renewed in the background."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """A document and the private key that opens what KMS answers to it."""

    document: bytes
    private_key: rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class _Aged:
    recipient: Recipient
    key_made_at_s: float
    document_made_at_s: float


class RecipientSource:
    """Gives the current recipient to each KMS call."""

    def __init__(self, nsm: Nsm, settings: AttestationSettings, clock: Clock) -> None:
        """Take the device, the times, and a clock that only goes forward."""
        self._nsm = nsm
        self._settings = settings
        self._clock = clock
        self._current: _Aged | None = None
        self._renewing = asyncio.Lock()

    async def current(self) -> Recipient:
        """Return a recipient within its times, making it if need be.

        Raises:
            NsmError: the device did not attest.
        """
        return (await self._within(1.0)).recipient

    async def rotate(self) -> None:
        """Renew in the background until cancelled; what fails here is left for the next call to meet."""
        while True:
            await asyncio.sleep(self._settings.document_ttl_s * _RENEW_AT)
            try:
                await self._within(_RENEW_AT)
            except NsmError as error:
                _log.warning("recipient_rotation_failed", nsm_code=error.code)

    async def _within(self, part: float) -> _Aged:
        aged = self._current
        if aged is not None and self._is_fresh(aged, part):
            return aged
        async with self._renewing:
            aged = self._current
            if aged is None or not self._is_fresh(aged, part):
                aged = self._current = await self._renew(aged, part)
            return aged

    def _is_fresh(self, aged: _Aged, part: float) -> bool:
        now = self._clock()
        return (
            now - aged.document_made_at_s < self._settings.document_ttl_s * part
            and now - aged.key_made_at_s < self._settings.recipient_key_ttl_s * part
        )

    async def _renew(self, aged: _Aged | None, part: float) -> _Aged:
        now = self._clock()
        if aged is not None and now - aged.key_made_at_s < self._settings.recipient_key_ttl_s * part:
            private_key, key_made_at_s = aged.recipient.private_key, aged.key_made_at_s
        else:
            private_key = await asyncio.to_thread(rsa.generate_private_key, public_exponent=65537, key_size=_RSA_BITS)
            key_made_at_s = now
        public_key = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        document = await self._nsm.attest(user_data=None, nonce=None, public_key=public_key)
        return _Aged(Recipient(document, private_key), key_made_at_s, now)
