"""Calls to KMS, each with an attestation document, over TLS that ends here.

One retry owner: botocore makes one attempt, tenacity tries again within the deadline of the whole call.
"""

import contextlib
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from config.enclave import EnclaveConfig
from enclave.cms import EnvelopeError, open_envelope, wipe
from enclave.credentials import CredentialStore
from enclave.http_session import KmsHttpSession
from enclave.memory_file import MemoryFile
from enclave.nsm_codec import NsmError
from enclave.proxy_socket import connector_args
from enclave.recipient import Recipient, RecipientSource
from protocol.errors import ErrorCode, SignerError
from protocol.messages import MAX_ENCRYPTED_DATA_KEY_BYTES

DATA_KEY_BYTES: Final = 32
MAX_RANDOM_BYTES: Final = 1024
"""Most bytes of one GenerateRandom (KMS API reference)."""

_CONNECT_TIMEOUT_S: Final = 3.0
_READ_TIMEOUT_S: Final = 5.0
_ATTEMPTS: Final = 4
"""A fourth failure goes back to the queue, whose back-off is longer than anything that is sensible here."""

_KEEPALIVE_S: Final = 60.0
_POOL_CONNECTIONS: Final = 32
"""Calls to KMS at once; `asyncio` tasks beyond it wait for a connection."""

_log = structlog.get_logger()

_CODES: Final[Mapping[str, ErrorCode]] = {
    "AccessDeniedException": ErrorCode.KMS_DENIED,
    "ExpiredTokenException": ErrorCode.KMS_DENIED,
    "UnrecognizedClientException": ErrorCode.KMS_DENIED,
    "InvalidClientTokenId": ErrorCode.KMS_DENIED,
    "InvalidSignatureException": ErrorCode.KMS_DENIED,
    "ValidationException": ErrorCode.KMS_DENIED,  # what KMS says to a document that it does not accept
    "ThrottlingException": ErrorCode.KMS_THROTTLED,
    "LimitExceededException": ErrorCode.KMS_THROTTLED,
    "IncorrectKeyException": ErrorCode.KMS_WRONG_KEY,
    "InvalidCiphertextException": ErrorCode.KMS_BAD_CONTEXT,
}
"""Error codes of the KMS API reference; every other one means that KMS is unavailable to us."""

_TRIED_AGAIN: Final = frozenset({ErrorCode.KMS_THROTTLED, ErrorCode.KMS_UNAVAILABLE})


class KmsClient:
    """The three calls of an enclave. Made by `open_kms`."""

    def __init__(
        self,
        client: Any,
        borrowed: Any,
        key_arn: str,
        store: CredentialStore,
        recipients: RecipientSource,
    ) -> None:
        """Take the aiobotocore client, the credentials object that it signs with, and where the parts come from."""
        self._client = client
        self._borrowed = borrowed
        self._key_arn = key_arn
        self._store = store
        self._recipients = recipients
        self.calls = 0
        self.throttles = 0

    async def generate_random(self, count_bytes: int) -> bytearray:
        """Return 1 to 1,024 random bytes of KMS, in a buffer that the caller wipes."""
        _, plaintext = await self._call(self._client.generate_random, NumberOfBytes=count_bytes)
        return _of_length(plaintext, count_bytes)

    async def generate_data_key(self, context: Mapping[str, str]) -> tuple[bytes, bytearray]:
        """Return a new data key, encrypted and plain; the plain one is in a buffer that the caller wipes."""
        answer, plaintext = await self._call(
            self._client.generate_data_key,
            KeyId=self._key_arn,
            NumberOfBytes=DATA_KEY_BYTES,
            EncryptionContext=context,
        )
        self._require_own_key(answer, plaintext)
        encrypted_data_key = answer.get("CiphertextBlob")
        if not encrypted_data_key or len(encrypted_data_key) > MAX_ENCRYPTED_DATA_KEY_BYTES:
            wipe(plaintext)
            raise SignerError(ErrorCode.KMS_BAD_ANSWER)
        return encrypted_data_key, _of_length(plaintext, DATA_KEY_BYTES)

    async def decrypt(self, encrypted_data_key: bytes, context: Mapping[str, str]) -> bytearray:
        """Return the plain data key, in a buffer that the caller wipes."""
        answer, plaintext = await self._call(
            self._client.decrypt,
            KeyId=self._key_arn,
            CiphertextBlob=encrypted_data_key,
            EncryptionContext=context,
        )
        self._require_own_key(answer, plaintext)
        return _of_length(plaintext, DATA_KEY_BYTES)

    def _require_own_key(self, answer: Mapping[str, Any], plaintext: bytearray) -> None:
        if answer.get("KeyId") != self._key_arn:
            wipe(plaintext)
            raise SignerError(ErrorCode.KMS_WRONG_KEY)

    async def _call(
        self, operation: Callable[..., Awaitable[dict[str, Any]]], **arguments: object
    ) -> tuple[dict[str, Any], bytearray]:
        """Call KMS, again if it throttles or does not answer; the deadline of the request bounds it all.

        Raises:
            SignerError: `kms_*`, `nsm_failed` or `not_ready`.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_try_again),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            reraise=True,
        )
        return await retrying(self._call_once, operation, arguments)

    async def _call_once(
        self, operation: Callable[..., Awaitable[dict[str, Any]]], arguments: Mapping[str, object]
    ) -> tuple[dict[str, Any], bytearray]:
        recipient = await self._recipient()
        self._borrow_credentials()
        self.calls += 1
        try:
            answer = await operation(
                **arguments,
                Recipient={
                    "AttestationDocument": recipient.document,
                    "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                },
            )
        except ClientError as error:
            code = _CODES.get(str(error.response.get("Error", {}).get("Code")), ErrorCode.KMS_UNAVAILABLE)
            self.throttles += code is ErrorCode.KMS_THROTTLED
            raise SignerError(code) from error
        except (TimeoutError, BotoCoreError, OSError) as error:
            raise SignerError(ErrorCode.KMS_UNAVAILABLE) from error
        except Exception as error:
            # An answer of another form: botocore's parser raises ValueError, TypeError and more.
            _log.error("kms_answer_unreadable", error_type=type(error).__name__)
            raise SignerError(ErrorCode.KMS_BAD_ANSWER) from error
        return answer, _open(answer, recipient)

    async def _recipient(self) -> Recipient:
        try:
            return await self._recipients.current()
        except NsmError as error:
            raise SignerError(ErrorCode.NSM_FAILED) from error

    def _borrow_credentials(self) -> None:
        """Put the newest credentials where botocore's signer reads them."""
        newest = self._store.current
        if newest is None or self._store.not_ready_reason is not None:
            raise SignerError(ErrorCode.NOT_READY)
        self._borrowed.access_key = newest.access_key_id
        self._borrowed.secret_key = newest.secret_access_key
        self._borrowed.token = newest.session_token


def _may_try_again(error: BaseException) -> bool:
    return isinstance(error, SignerError) and error.code in _TRIED_AGAIN


def _open(answer: Mapping[str, Any], recipient: Recipient) -> bytearray:
    try:
        return open_envelope(answer["CiphertextForRecipient"], recipient.private_key)
    except KeyError as error:  # an answer in plain text: KMS did not see our document
        raise SignerError(ErrorCode.KMS_BAD_ANSWER) from error
    except EnvelopeError as error:
        raise SignerError(ErrorCode.KMS_BAD_ANSWER) from error


def _of_length(plaintext: bytearray, length: int) -> bytearray:
    if len(plaintext) != length:
        wipe(plaintext)
        raise SignerError(ErrorCode.KMS_BAD_ANSWER)
    return plaintext


@contextlib.asynccontextmanager
async def open_kms(
    config: EnclaveConfig, credentials: CredentialStore, recipients: RecipientSource
) -> AsyncGenerator[KmsClient, None]:
    """Make the client of one server process. Nothing outside `config` says where KMS is or who may speak for it.

    Raises:
        OSError: the certificate authorities cannot be read (`ssl.SSLError` is one).
    """
    ssl.create_default_context(cadata=config.kms_ca_pem)  # aiobotocore reads them at the first call only: too late
    session = get_session()
    for unread_file in ("config_file", "credentials_file"):
        session.set_config_variable(unread_file, os.devnull)
    session.set_credentials("", "", "")  # the first real ones come from the parent; see `_borrow_credentials`
    options = AioConfig(
        region_name=config.region,
        connector_args=connector_args(config.kms_proxy, keepalive_s=_KEEPALIVE_S),
        http_session_cls=KmsHttpSession,
        proxies={},
        ignore_configured_endpoint_urls=True,
        max_pool_connections=_POOL_CONNECTIONS,
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"total_max_attempts": 1, "mode": "standard"},
        parameter_validation=False,
        user_agent="nitro-signer-enclave",
    )
    with MemoryFile("kms-ca", config.kms_ca_pem.encode()) as authorities:
        async with session.create_client(
            "kms",
            region_name=config.region,
            endpoint_url=f"https://{config.kms_host}",
            verify=str(authorities.path),
            config=options,
        ) as client:
            yield KmsClient(client, await session.get_credentials(), config.kms_key_arn, credentials, recipients)
