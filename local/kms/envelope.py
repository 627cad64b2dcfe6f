"""Builds `CiphertextForRecipient`: CMS EnvelopedData (RFC 5652) byte for byte in the form of real KMS answers.

BER with indefinite lengths around a definite RecipientInfos; key identifier = SHA-256 of the recipient's
SubjectPublicKeyInfo; RSAES-OAEP with SHA-256; AES-256-CBC; the content in OCTET STRING segments. Everything but the
identifier, the two keys' ciphertexts and the vector is constant, so it is joined from bytes: a general encoder takes
milliseconds.
"""

import hashlib
import os
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import load_der_public_key

_INDEFINITE_SEQUENCE: Final = bytes.fromhex("3080")
_INDEFINITE_TAG_0: Final = bytes.fromhex("a080")
_END: Final = bytes(2)
_ENVELOPED_DATA: Final = bytes.fromhex("06092a864886f70d010703")
_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_VERSION_2: Final = bytes.fromhex("020102")
_OAEP_SHA256: Final = bytes.fromhex(
    "303c06092a864886f70d010107"  # id-RSAES-OAEP
    "302f"
    "a00f300d06096086480165030402010500"  # hashAlgorithm: SHA-256, NULL
    "a11c301a06092a864886f70d010108300d06096086480165030402010500"  # maskGenAlgorithm: MGF1 with SHA-256, NULL
)
_AES256_CBC_WITH_IV: Final = bytes.fromhex("301d060960864801650304012a0410")  # the 16 bytes of the vector follow
_SET, _SEQUENCE, _OCTET_STRING, _KEY_ID_TAG = 0x31, 0x30, 0x04, 0x80

_HEAD: Final = (
    _INDEFINITE_SEQUENCE + _ENVELOPED_DATA + _INDEFINITE_TAG_0 + _INDEFINITE_SEQUENCE + _VERSION_2
)  # ContentInfo, EnvelopedData
_CONTENT_HEAD: Final = _INDEFINITE_SEQUENCE + _DATA + _AES256_CBC_WITH_IV
_TAIL: Final = 5 * _END

_SEGMENT_BYTES: Final = 1000
"""The real samples have one segment of 48 and of 160 bytes; longer content is cut, so that readers meet segments."""

_BLOCK_BITS: Final = 128
_BLOCK_BYTES: Final = 16
_CONTENT_KEY_BYTES: Final = 32
_OAEP: Final = rsa_padding.OAEP(mgf=rsa_padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_RSA_BITS: Final = (2048, 3072, 4096)


@dataclass(frozen=True, slots=True)
class EnvelopeRecipient:
    """A public key to which answers are encrypted."""

    public_key: RSAPublicKey
    key_id: bytes

    @classmethod
    def from_spki(cls, der: bytes) -> Self:
        """Take the `public_key` of an attestation document.

        Raises:
            ValueError: not an RSA key of 2,048, 3,072 or 4,096 bits in SubjectPublicKeyInfo form.
        """
        key = load_der_public_key(der)
        if not isinstance(key, RSAPublicKey) or key.key_size not in _RSA_BITS:
            raise ValueError("not an RSA public key of 2048, 3072 or 4096 bits")
        return cls(key, hashlib.sha256(der).digest())

    def seal(self, plaintext: bytes) -> bytes:
        """Return the envelope around a plaintext."""
        content_key = os.urandom(_CONTENT_KEY_BYTES)
        vector = os.urandom(_BLOCK_BYTES)
        padder = padding.PKCS7(_BLOCK_BITS).padder()
        encryptor = Cipher(AES256(content_key), CBC(vector)).encryptor()
        content = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
        recipient_info = _tlv(
            _SEQUENCE,
            _VERSION_2
            + _tlv(_KEY_ID_TAG, self.key_id)
            + _OAEP_SHA256
            + _tlv(_OCTET_STRING, self.public_key.encrypt(content_key, _OAEP)),
        )
        segments = b"".join(
            _tlv(_OCTET_STRING, content[start : start + _SEGMENT_BYTES])
            for start in range(0, len(content), _SEGMENT_BYTES)
        )
        return b"".join((_HEAD, _tlv(_SET, recipient_info), _CONTENT_HEAD, vector, _INDEFINITE_TAG_0, segments, _TAIL))


def _tlv(tag: int, value: bytes) -> bytes:
    """Tag, DER length, value."""
    length = len(value)
    if length < 0x80:  # noqa: PLR2004 - the short form, X.690 section 8.1.3.4
        head = bytes((tag, length))
    else:
        size = length.to_bytes((length.bit_length() + 7) // 8, "big")
        head = bytes((tag, 0x80 | len(size))) + size
    return head + value
