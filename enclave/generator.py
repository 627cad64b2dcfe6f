"""The generator's work: keys are born here, sealed, and leave with a certificate of their birth."""

from enclave.cms import wipe
from enclave.keypair import SEED_BYTES, KeyPair, derive_private_key
from enclave.kms import KmsClient
from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError
from enclave.random_source import KmsSeeds
from enclave.sealing import NONCE_BYTES, seal
from protocol.birth import birth_user_data
from protocol.errors import ErrorCode, SignerError
from protocol.keyrecord import sealed_record_sha256
from protocol.messages import GeneratedKey, SealedRecord
from protocol.statement import KeyStatement, KmsKey, encryption_context


class Generator:
    """Makes one key at a time; many may be in the making together."""

    def __init__(self, kms: KmsClient, nsm: Nsm, seeds: KmsSeeds, kms_key: KmsKey) -> None:
        self._kms = kms
        self._nsm = nsm
        self._seeds = seeds
        self._kms_key = kms_key

    async def generate(self, userid: str) -> GeneratedKey:
        """Make, seal and certify a key for a user id (which is what the parent asserts, and no more).

        Raises:
            SignerError: `kms_*`, `nsm_failed` or `not_ready`.
        """
        try:
            private_key = await self._new_private_key()
            statement = KeyStatement(
                userid=userid, public_key=KeyPair(private_key).public_key, kms_key=self._kms_key
            ).to_bytes()
            record = await self._seal(private_key, statement, userid)
            document = await self._nsm.attest(
                user_data=birth_user_data(statement, sealed_record_sha256(record)), nonce=None, public_key=None
            )
        except NsmError as error:
            raise SignerError(ErrorCode.NSM_FAILED) from error
        return GeneratedKey(record=record, birth_document=document)

    async def _new_private_key(self) -> bytes:
        while True:
            nsm_seed = bytearray(await self._nsm.random(SEED_BYTES))
            kms_seed = await self._seeds.draw()
            private_key = derive_private_key(kms_seed, nsm_seed)
            wipe(kms_seed)
            wipe(nsm_seed)
            if private_key is not None:  # else drawn again: once in 2**127 keys
                return private_key

    async def _seal(self, private_key: bytes, statement: bytes, userid: str) -> SealedRecord:
        nonce = await self._nsm.random(NONCE_BYTES)
        encrypted_data_key, data_key = await self._kms.generate_data_key(encryption_context(userid, statement))
        try:
            sealed_key = seal(private_key, data_key, nonce, statement)
        finally:
            wipe(data_key)
        return SealedRecord(statement=statement, sealed_key=sealed_key, encrypted_data_key=encrypted_data_key)
