"""What goes into the client and what comes out, as values."""

from dataclasses import dataclass
from typing import Final

from protocol.birth_verification import VerifiedBirth
from protocol.messages import Digest, Scheme, SignatureFormat
from protocol.publickey import compressed, ethereum_address, uncompressed
from workers.client.errors import SigningError

_HALF_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public key of a user id, verified or pinned; never one that a reply only claims."""

    userid: str
    xy: bytes
    """x || y, 64 bytes."""

    birth: VerifiedBirth | None = None
    """Where it was born; None for a key that the caller has pinned."""

    @property
    def compressed(self) -> bytes:
        """33 bytes (SEC 1), as Bitcoin uses it."""
        return compressed(self.xy)

    @property
    def uncompressed(self) -> bytes:
        """65 bytes (SEC 1), as most libraries read it."""
        return uncompressed(self.xy)

    @property
    def ethereum_address(self) -> str:
        """With the checksum of EIP-55."""
        return ethereum_address(self.xy)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that was verified here, with a key that is trusted here."""

    data: bytes
    """64 bytes r || s (compact, and Schnorr), 65 bytes r || s || v (recoverable), or DER."""

    digest: bytes
    """The 32 bytes that are signed."""

    key: PublicKey
    scheme: Scheme
    format: SignatureFormat
    job_id: str
    """To be found in the logs of the workers."""

    def hex(self) -> str:
        """Return the signature in hexadecimal digits."""
        return self.data.hex()

    @property
    def r(self) -> int:
        """The first half as a number.

        Raises:
            ValueError: the signature is DER.
        """
        return int.from_bytes(self._halves()[:_HALF_BYTES], "big")

    @property
    def s(self) -> int:
        """The second half as a number; at most n/2 (ECDSA).

        Raises:
            ValueError: the signature is DER.
        """
        return int.from_bytes(self._halves()[_HALF_BYTES:], "big")

    @property
    def recovery_id(self) -> int:
        """0 or 1: which of the two keys that fit is ours. Ethereum's y parity.

        Raises:
            ValueError: the format is not recoverable.
        """
        if self.format is not SignatureFormat.RECOVERABLE:
            raise ValueError("only a recoverable signature has a recovery id")
        return self.data[2 * _HALF_BYTES]

    def _halves(self) -> bytes:
        if self.format is SignatureFormat.DER:
            raise ValueError("r and s are inside the DER structure; ask for the compact format to have them")
        return self.data[: 2 * _HALF_BYTES]


@dataclass(frozen=True, slots=True)
class SignRequest:
    """A message to be signed; the arguments of `SigningClient.sign` as a value."""

    userid: str
    message: bytes | str
    """Text is signed as its UTF-8 bytes."""

    digest: Digest = Digest.SHA256
    scheme: Scheme = Scheme.ECDSA
    format: SignatureFormat = SignatureFormat.COMPACT


@dataclass(frozen=True, slots=True)
class SignResult:
    """What became of one request of `sign_many`: a signature, or why there is none."""

    request: SignRequest
    outcome: Signature | SigningError

    def unwrap(self) -> Signature:
        """Return the signature.

        Raises:
            SigningError: there is none, for this reason.
        """
        if isinstance(self.outcome, SigningError):
            raise self.outcome
        return self.outcome
