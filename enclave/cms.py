"""Opens `CiphertextForRecipient`: CMS EnvelopedData (RFC 5652) for one RSA key, as KMS writes it.

The form is BER with indefinite lengths; the encrypted content comes primitive or in segments. It is *unauthenticated*
(AES-CBC under a key that anybody can encrypt to a public key), so what comes out may only be believed when it came over
the enclave's own TLS session with KMS.
"""

from typing import Any, Final, cast

from asn1crypto import cms
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

MAX_ENVELOPE_BYTES: Final = 16 * 1024
"""GenerateRandom of 1,024 bytes makes about 1.5 KB; the largest real one seen has 606 bytes."""

_AES_BLOCK_BYTES: Final = 16
_AES_KEY_BYTES: Final = 32
_OAEP: Final = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class EnvelopeError(ValueError):
    """The bytes are not an envelope that this key opens. The text never tells more than the form did."""


def open_envelope(data: bytes, key: RSAPrivateKey) -> bytearray:
    """Return the plaintext, in a buffer that the caller wipes.

    Raises:
        EnvelopeError: another form, another algorithm, another key, or damaged.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(f"an envelope of {len(data)} bytes; the limit is {MAX_ENVELOPE_BYTES}")
    try:
        encrypted_key, initialization_vector, ciphertext = _parse(data)
    except EnvelopeError:
        raise
    except Exception as error:  # asn1crypto raises ValueError, TypeError, KeyError and more on hostile input
        raise EnvelopeError("not a CMS envelope") from error
    try:
        content_key = key.decrypt(encrypted_key, _OAEP)
    except ValueError as error:
        raise EnvelopeError("the envelope does not open with this key") from error
    if len(content_key) != _AES_KEY_BYTES or not ciphertext or len(ciphertext) % _AES_BLOCK_BYTES:
        raise EnvelopeError("the envelope does not open with this key")
    plaintext = bytearray(len(ciphertext) + _AES_BLOCK_BYTES - 1)
    decryptor = Cipher(AES256(content_key), CBC(initialization_vector)).decryptor()
    decryptor.update_into(ciphertext, plaintext)
    return _without_padding(plaintext, len(ciphertext))


def wipe(buffer: bytearray) -> None:
    """Overwrite a buffer with zeros."""
    buffer[:] = bytes(len(buffer))


def _without_padding(buffer: bytearray, length: int) -> bytearray:
    """Cut the padding of RFC 5652 section 6.3 off, and wipe what is not returned."""
    pad = buffer[length - 1]
    if not 1 <= pad <= _AES_BLOCK_BYTES or set(buffer[length - pad : length]) != {pad}:
        wipe(buffer)
        raise EnvelopeError("the envelope does not open with this key")
    plaintext = buffer[: length - pad]
    wipe(buffer)
    return plaintext


def _parse(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return encrypted content key, initialization vector and ciphertext. asn1crypto has no types: they end here."""
    info: Any = cms.ContentInfo.load(data, strict=True)
    if info["content_type"].native != "enveloped_data":
        raise EnvelopeError("not enveloped data")
    enveloped: Any = info["content"]
    if enveloped["originator_info"].native is not None or enveloped["unprotected_attrs"].native is not None:
        raise EnvelopeError("an envelope of KMS has neither originator info nor attributes")
    recipients: Any = enveloped["recipient_infos"]
    if enveloped["version"].native != "v2" or len(recipients) != 1 or recipients[0].name != "ktri":
        raise EnvelopeError("not an envelope of version 2 for one key-transport recipient")
    recipient: Any = recipients[0].chosen
    _require_oaep_sha256(recipient["key_encryption_algorithm"])
    content: Any = enveloped["encrypted_content_info"]
    algorithm: Any = content["content_encryption_algorithm"]
    if content["content_type"].native != "data" or algorithm["algorithm"].native != "aes256_cbc":
        raise EnvelopeError("the content is not data under AES-256-CBC")
    initialization_vector = cast("bytes", algorithm["parameters"].native)
    if len(initialization_vector) != _AES_BLOCK_BYTES:
        raise EnvelopeError("the initialization vector does not have 16 bytes")
    ciphertext = cast("bytes | None", content["encrypted_content"].native)
    if ciphertext is None:
        raise EnvelopeError("the envelope has no content")
    return cast("bytes", recipient["encrypted_key"].native), initialization_vector, ciphertext


def _require_oaep_sha256(algorithm: Any) -> None:
    parameters: Any = algorithm["parameters"]
    if (
        algorithm["algorithm"].native != "rsaes_oaep"
        or parameters["hash_algorithm"]["algorithm"].native != "sha256"
        or parameters["mask_gen_algorithm"]["algorithm"].native != "mgf1"
        or parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native != "sha256"
        or parameters["p_source_algorithm"]["parameters"].native not in (b"", None)
    ):
        raise EnvelopeError("the content key is not under RSAES-OAEP with SHA-256")
