"""Operations that use keys: GenerateRandom, GenerateDataKey, Decrypt, Encrypt."""

import base64
import os
from typing import Any, Final

from local.kms.blob import Blob, BlobError, seal_blob
from local.kms.call import Call
from local.kms.errors import KmsError
from local.kms.keystore import KeyStore, KmsKey
from local.kms.recipients import DocumentVerifier
from local.kms.requests import DecryptInput, EncryptInput, GenerateDataKeyInput, GenerateRandomInput, RecipientInfo

_ALGORITHM: Final = "SYMMETRIC_DEFAULT"


class KeyUse:
    """The operations, on the keys of a store, for enclaves that the verifier accepts."""

    def __init__(self, store: KeyStore, verifier: DocumentVerifier) -> None:
        self._store = store
        self._verifier = verifier

    def generate_random(self, call: Call, request: GenerateRandomInput) -> dict[str, Any]:
        """Random bytes; no key, so only IAM policies decide."""
        call.parameters = {"numberOfBytes": request.number_of_bytes}
        self._attest(call, request.recipient)
        call.authorize(None)
        return _answer(call, os.urandom(request.number_of_bytes))

    def generate_data_key(self, call: Call, request: GenerateDataKeyInput) -> dict[str, Any]:
        """Random bytes, plain and encrypted under the key."""
        call.parameters = {
            "keyId": request.key_id,
            **({"keySpec": request.key_spec} if request.key_spec else {"numberOfBytes": request.number_of_bytes}),
        }
        call.encryption_context = request.encryption_context
        key = self._store.find(request.key_id)
        self._attest(call, request.recipient)
        self._authorize_use(call, key, dry_run=request.dry_run)
        data_key = os.urandom(request.length_bytes)
        blob = seal_blob(key.key_id, key.material, key.arn, request.encryption_context, data_key)
        return {"CiphertextBlob": _to_base64(blob), "KeyId": key.arn, **_answer(call, data_key)}

    def decrypt(self, call: Call, request: DecryptInput) -> dict[str, Any]:
        """Open a blob, with the key that it names; a key named in the request must be that one."""
        call.parameters = {"encryptionAlgorithm": request.encryption_algorithm}
        if request.key_id is not None:
            call.parameters["keyId"] = request.key_id
        call.encryption_context = request.encryption_context
        blob, key = self._blob_and_key(request)
        self._attest(call, request.recipient)
        self._authorize_use(call, key, dry_run=request.dry_run)
        if blob is None:
            raise _invalid_ciphertext()
        if blob.key_id != key.key_id:
            raise KmsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        try:
            plaintext = blob.open(key.material, key.arn, request.encryption_context)
        except BlobError as error:
            raise _invalid_ciphertext() from error
        return {"KeyId": key.arn, "EncryptionAlgorithm": _ALGORITHM, **_answer(call, plaintext)}

    def encrypt(self, call: Call, request: EncryptInput) -> dict[str, Any]:
        """Seal a plaintext. Never attested: a condition on a PCR finds its key absent."""
        call.parameters = {"keyId": request.key_id, "encryptionAlgorithm": request.encryption_algorithm}
        call.encryption_context = request.encryption_context
        key = self._store.find(request.key_id)
        self._authorize_use(call, key, dry_run=request.dry_run)
        blob = seal_blob(key.key_id, key.material, key.arn, request.encryption_context, request.plaintext)
        return {"CiphertextBlob": _to_base64(blob), "KeyId": key.arn, "EncryptionAlgorithm": _ALGORITHM}

    def _blob_and_key(self, request: DecryptInput) -> tuple[Blob | None, KmsKey]:
        """Return the blob, if it is one, and the key to use: a caller without permission learns nothing of the blob."""
        try:
            blob = Blob.parse(request.ciphertext_blob)
        except BlobError as error:
            if request.key_id is None:
                raise _invalid_ciphertext() from error
            return None, self._store.find(request.key_id)
        if request.key_id is not None:
            return blob, self._store.find(request.key_id)
        try:
            return blob, self._store.find(blob.key_id)
        except KmsError as error:
            raise _invalid_ciphertext() from error

    def _attest(self, call: Call, recipient: RecipientInfo | None) -> None:
        if recipient is not None:
            call.attested = self._verifier.verify(recipient.attestation_document)

    @staticmethod
    def _authorize_use(call: Call, key: KmsKey, *, dry_run: bool) -> None:
        call.authorize(key, EncryptionAlgorithm=_ALGORITHM)
        if not key.is_enabled:
            raise KmsError("DisabledException", f"{key.arn} is disabled.")
        if dry_run:
            raise KmsError(
                "DryRunOperationException", "The request would have succeeded, but the DryRun option is set."
            )


def _answer(call: Call, plaintext: bytes) -> dict[str, str]:
    """Return the secret in the clear, or, to an attested caller, only inside an envelope."""
    if call.attested is None:
        return {"Plaintext": _to_base64(plaintext)}
    return {"CiphertextForRecipient": _to_base64(call.attested.envelope.seal(plaintext))}


def _invalid_ciphertext() -> KmsError:
    return KmsError("InvalidCiphertextException", "")  # KMS gives no text here


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
