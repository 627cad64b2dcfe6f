"""The job that every peer does: nothing, or one signature with a key that is in memory; then a reply is sent.

`BENCH_ENDPOINT` says where SQS is. Started with `fill KIND COUNT`, a peer's module enqueues jobs as its users do.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable

from coincurve import PrivateKey

ENDPOINT = os.environ["BENCH_ENDPOINT"]
PORT = ENDPOINT.rsplit(":", 1)[-1]
REGION = "us-east-1"
CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
CLIENT = {"endpoint_url": ENDPOINT, "region_name": REGION, **CREDENTIALS}

_KEY = PrivateKey(hashlib.sha256(b"peer").digest())


def queue_url(name: str) -> str:
    """Return the URL of a queue."""
    return f"{ENDPOINT}/000000000000/{name}"


def reply_url(peer: str) -> str:
    """Return the URL of the queue that takes a peer's replies."""
    return queue_url(f"{peer}-reply")


def answer(kind: str, number: int) -> str:
    """Do the job; return the body of its reply."""
    signature = "5a" * 64
    if kind == "sign":
        digest = hashlib.sha256(f"payment {number}".encode()).digest()
        signature = _KEY.sign_recoverable(digest, hasher=None)[:64].hex()
    return json.dumps({"type": "sign", "job_id": f"s-{number}", "status": "ok", "signature": signature})


def fill_as_asked(enqueue: Callable[[str, int], object]) -> None:
    """Enqueue the jobs that the command line asks for."""
    _, kind, count = sys.argv[1:]
    for number in range(int(count)):
        enqueue(kind, number)
