"""Spends two Bitcoin outputs, P2WPKH and P2PKH: built and hashed by embit, signed by nitro-signer.

    pip install embit
    python examples/bitcoin.py client.toml alice

The outputs that it spends are made up, and it sends nothing: `raw` is what you would give to `sendrawtransaction`.
"""

import sys
from pathlib import Path

from embit import ec, script
from embit.transaction import SIGHASH, Transaction, TransactionInput, TransactionOutput

from protocol.messages import Digest, SignatureFormat
from workers.client import SyncSigningClient, load_client_settings

AMOUNT = 100_000
"""Satoshi in each of the outputs that are spent."""


def unsigned_transaction() -> Transaction:
    """Return a transaction that spends two outputs and pays to an address."""
    spent = [TransactionInput(bytes.fromhex("11" * 32), place, sequence=0xFFFFFFFD) for place in (0, 1)]
    paid = script.address_to_scriptpubkey("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")
    return Transaction(vin=spent, vout=[TransactionOutput(2 * AMOUNT - 1_000, paid)])


def sign_inputs(client: SyncSigningClient, userid: str, public_key: ec.PublicKey) -> Transaction:
    """Sign the first input as P2WPKH (BIP-143) and the second as P2PKH."""
    transaction = unsigned_transaction()
    hashes = (
        transaction.sighash_segwit(0, script.p2pkh(public_key), AMOUNT),
        transaction.sighash_legacy(1, script.p2pkh(public_key)),
    )
    # The message is the double SHA-256 itself. DER, low s (BIP-146), and the kind of hash behind it.
    witness, legacy = (
        ec.Signature.parse(client.sign(userid, digest, digest=Digest.NONE, format=SignatureFormat.DER).data)
        for digest in hashes
    )
    transaction.vin[0].witness = script.witness_p2wpkh(witness, public_key, SIGHASH.ALL)
    transaction.vin[1].script_sig = script.script_sig_p2pkh(legacy, public_key, SIGHASH.ALL)
    return transaction


def main() -> None:
    """Make the key if there is none, and sign."""
    with SyncSigningClient(load_client_settings(Path(sys.argv[1]))) as client:
        userid = sys.argv[2]
        public_key = ec.PublicKey.parse(client.generate(userid).compressed)
        print(f"P2WPKH  {script.p2wpkh(public_key).address()}")
        print(f"P2PKH   {script.p2pkh(public_key).address()}")
        print(f"raw     {sign_inputs(client, userid, public_key).serialize().hex()}")


if __name__ == "__main__":
    main()
