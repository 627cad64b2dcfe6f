"""A sign worker in the style of the well-known demo: one message, one key read, one Decrypt, pure-Python ECDSA.

The demo starts a program inside the enclave for each Decrypt; here it is one call, so the real one is slower.
"""

import hashlib
import json
import sys

import boto3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ecdsa import SECP256k1, SigningKey
from ecdsa.util import sigencode_string

from benchmarks.peers.work import CLIENT, queue_url, reply_url

QUEUE, TABLE = "sequential-jobs", "SequentialUserToken"
_DATA_KEY = bytes(32)
"""What the memory server's Decrypt answers."""


def main() -> None:
    """Work for ever."""
    sqs, dynamodb, kms = (boto3.client(name, **CLIENT) for name in ("sqs", "dynamodb", "kms"))
    sealed = AESGCM(_DATA_KEY).encrypt(bytes(12), hashlib.sha256(b"peer").digest(), None)
    dynamodb.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "userid", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "userid", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    dynamodb.put_item(
        TableName=TABLE,
        Item={"userid": {"S": "u1"}, "encrypted_privatekey": {"S": sealed.hex()}, "encrypted_datakey": {"S": "AAAA"}},
    )
    while True:
        received = sqs.receive_message(QueueUrl=queue_url(QUEUE), WaitTimeSeconds=1)
        for message in received.get("Messages", []):
            job = json.loads(message["Body"])
            item = dynamodb.get_item(TableName=TABLE, Key={"userid": {"S": "u1"}})["Item"]
            data_key = kms.decrypt(CiphertextBlob=item["encrypted_datakey"]["S"])["Plaintext"]
            private_key = AESGCM(data_key).decrypt(bytes(12), bytes.fromhex(item["encrypted_privatekey"]["S"]), None)
            key = SigningKey.from_string(private_key, curve=SECP256k1)
            signature = key.sign_deterministic(
                f"payment {job['number']}".encode(), hashfunc=hashlib.sha256, sigencode=sigencode_string
            )
            reply = {"type": "sign", "job_id": f"s-{job['number']}", "status": "ok", "signature": signature.hex()}
            sqs.send_message(QueueUrl=reply_url("sequential"), MessageBody=json.dumps(reply))
            sqs.delete_message(QueueUrl=queue_url(QUEUE), ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    sys.exit(main())
