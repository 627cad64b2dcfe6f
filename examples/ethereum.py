"""A legacy and an EIP-1559 transaction: hashed by eth-account, signed by nitro-signer, read back by eth-account.

    pip install eth-account
    python examples/ethereum.py client.toml alice

It sends nothing: `raw` is what you would give to `eth_sendRawTransaction`.
"""

import sys
from pathlib import Path

from eth_account import Account

# eth-account signs with a key of its own only. To sign elsewhere, one takes its parts: the second is not public yet.
from eth_account._utils.legacy_transactions import encode_transaction, serializable_unsigned_transaction_from_dict
from eth_account.typed_transactions import TypedTransaction

from protocol.messages import Digest, SignatureFormat
from workers.client import SyncSigningClient, load_client_settings

CHAIN_ID = 1
TRANSFER = {
    "nonce": 7,
    "gas": 21_000,
    "to": "0x000000000000000000000000000000000000dEaD",
    "value": 10**18,
    "data": b"",
    "chainId": CHAIN_ID,
}


def sign_legacy(client: SyncSigningClient, userid: str) -> bytes:
    """Return a raw transaction with a gas price, protected against replay on other chains (EIP-155)."""
    unsigned = serializable_unsigned_transaction_from_dict({**TRANSFER, "gasPrice": 10 * 10**9})
    signature = client.sign(userid, unsigned.hash(), digest=Digest.NONE, format=SignatureFormat.RECOVERABLE)
    v = 35 + 2 * CHAIN_ID + signature.recovery_id
    return encode_transaction(unsigned, vrs=(v, signature.r, signature.s))


def sign_eip_1559(client: SyncSigningClient, userid: str) -> bytes:
    """Return a raw transaction with a dynamic fee (type 2)."""
    fees = {"type": 2, "maxFeePerGas": 20 * 10**9, "maxPriorityFeePerGas": 10**9, "accessList": []}
    unsigned = TypedTransaction.from_dict({**TRANSFER, **fees})
    signature = client.sign(userid, unsigned.hash(), digest=Digest.NONE, format=SignatureFormat.RECOVERABLE)
    parts = {"v": signature.recovery_id, "r": signature.r, "s": signature.s}
    return TypedTransaction.from_dict({**TRANSFER, **fees, **parts}).encode()


def main() -> None:
    """Make the key if there is none, sign both, and ask eth-account who sent them."""
    with SyncSigningClient(load_client_settings(Path(sys.argv[1]))) as client:
        userid = sys.argv[2]
        print(f"address   {client.generate(userid).ethereum_address}")
        for name, sign in (("legacy", sign_legacy), ("EIP-1559", sign_eip_1559)):
            raw = sign(client, userid)
            print(f"{name:9} raw 0x{raw.hex()}")
            print(f"{name:9} sent by {Account.recover_transaction(raw)}")


if __name__ == "__main__":
    main()
