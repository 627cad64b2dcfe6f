"""The signer's work: open the key of a record, prove that it is the user's, sign."""

from enclave.cms import wipe
from enclave.key_cache import KeyCache
from enclave.keypair import KeyPair
from enclave.kms import KmsClient
from enclave.sealing import open_sealed
from protocol.errors import ErrorCode, SignerError
from protocol.forms import check_form, digest_of
from protocol.messages import SealedRecord, SignItem
from protocol.statement import KeyStatement, KmsKey, StatementError, encryption_context


class Signer:
    """Signs one message at a time; many may be waiting for their keys together."""

    def __init__(self, kms: KmsClient, cache: KeyCache, kms_key: KmsKey) -> None:
        self._kms = kms
        self._cache = cache
        self._kms_key = kms_key

    def sign_if_open(self, item: SignItem) -> bytes | None:
        """Sign with a key that is in the cache; None when it is not.

        Raises:
            SignerError: `bad_request` for a form that does not exist.
        """
        check_form(item.message, item.digest, item.scheme, item.format)
        key = self._cache.find(item.userid, item.record)
        return None if key is None else _sign(key, item)

    async def sign(self, item: SignItem) -> bytes:
        """Open the key and sign.

        Raises:
            SignerError: `bad_request`, `record_refused`, `kms_*`, `nsm_failed` or `not_ready`.
        """
        key = await self._cache.open(item.userid, item.record, lambda: self._open(item.userid, item.record))
        return _sign(key, item)

    async def _open(self, userid: str, record: SealedRecord) -> KeyPair:
        """Open a record. Nothing in it is believed: each step would fail for a record that was not sealed as it is."""
        try:
            statement = KeyStatement.from_bytes(record.statement)
        except StatementError as error:
            raise SignerError(ErrorCode.RECORD_REFUSED) from error
        if statement.userid != userid or statement.kms_key != self._kms_key:
            raise SignerError(ErrorCode.RECORD_REFUSED)
        data_key = await self._kms.decrypt(record.encrypted_data_key, encryption_context(userid, record.statement))
        try:
            private_key = open_sealed(record.sealed_key, data_key, record.statement)
        finally:
            wipe(data_key)
        try:
            key = KeyPair(private_key)
        except ValueError as error:
            raise SignerError(ErrorCode.RECORD_REFUSED) from error
        finally:
            wipe(private_key)
        if key.public_key != statement.public_key:
            raise SignerError(ErrorCode.RECORD_REFUSED)
        return key


def _sign(key: KeyPair, item: SignItem) -> bytes:
    return key.sign(digest_of(item.message, item.digest), item.scheme, item.format)
