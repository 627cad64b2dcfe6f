"""The forms in which a secp256k1 public key is shown: x||y, compressed (SEC 1), Ethereum address (EIP-55)."""

from protocol.keccak import keccak256
from protocol.statement import PUBLIC_KEY_BYTES

_ADDRESS_BYTES = 20


def _check(public_key: bytes) -> None:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"a public key is x||y, {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")


def compressed(public_key: bytes) -> bytes:
    """Return the 33-byte compressed point (SEC 1 section 2.3.3) of x||y.

    Raises:
        ValueError: not 64 bytes.
    """
    _check(public_key)
    return bytes([2 + (public_key[-1] & 1)]) + public_key[:32]


def uncompressed(public_key: bytes) -> bytes:
    """Return the 65-byte uncompressed point (SEC 1 section 2.3.3) of x||y.

    Raises:
        ValueError: not 64 bytes.
    """
    _check(public_key)
    return b"\x04" + public_key


def ethereum_address(public_key: bytes) -> str:
    """Return the Ethereum address of x||y with the checksum of EIP-55.

    Raises:
        ValueError: not 64 bytes.
    """
    _check(public_key)
    address = keccak256(public_key)[-_ADDRESS_BYTES:].hex()
    checksum = keccak256(address.encode()).hex()
    upper_from = 8
    return "0x" + "".join(
        char.upper() if int(nibble, 16) >= upper_from else char for char, nibble in zip(address, checksum, strict=False)
    )
