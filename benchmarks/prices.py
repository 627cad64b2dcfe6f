"""Dollars for a million signatures: AWS calls that were counted, times list prices.

List prices of us-east-1, on demand: SQS $0.40 a million requests (of 64 KiB each), DynamoDB $0.125 a million read units
and $0.625 a million write units, KMS $0.03 for 10,000 symmetric calls, kms:Sign on ECC keys $0.15 for 10,000 and $1 a
key and month. Computers are not counted: `benchmarks.capacity` says how many there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SQS_DOLLARS: Final = 0.40e-6
READ_DOLLARS: Final = 0.125e-6
KMS_DOLLARS: Final = 0.03e-4
SIGN_DOLLARS: Final = 0.15e-4

_SQS_CHUNK_BYTES: Final = 64 * 1024
_SQS_CALLS: Final = ("ReceiveMessage", "SendMessage", "SendMessageBatch", "DeleteMessage", "DeleteMessageBatch")


@dataclass(frozen=True, slots=True)
class Bill:
    """Dollars for a million signatures."""

    name: str
    sqs: float
    dynamodb: float
    kms: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.sqs + self.dynamodb + self.kms


def sqs_calls_per_1000(calls: Mapping[str, float]) -> float:
    """Return the SQS calls among those for a thousand jobs."""
    return sum(count for name, count in calls.items() if name in _SQS_CALLS)


def bills(single: Mapping[str, float], bulk: Mapping[str, float], *, bulk_bytes: int) -> list[Bill]:
    """Return the bills of each way.

    Args:
        single: calls for a thousand single sign jobs.
        bulk: calls for a thousand signatures of bulk jobs.
        bulk_bytes: size of one bulk job or of its reply, whichever is larger.

    """
    chunks = max(1, -(-bulk_bytes // _SQS_CHUNK_BYTES))
    per_million = 1_000 * sqs_calls_per_1000(single) * SQS_DOLLARS
    sending = 100_000 * SQS_DOLLARS  # by the client, ten jobs a call
    taking = 200_000 * SQS_DOLLARS  # of replies: receive and delete, ten a call
    in_bulk = 1_000 * sqs_calls_per_1000(bulk) * chunks * SQS_DOLLARS
    every_read, every_decrypt = 1e6 * READ_DOLLARS, 1e6 * KMS_DOLLARS
    return [
        Bill("bulk jobs, keys and records warm", in_bulk + 3 * 1_000 * chunks * SQS_DOLLARS, 0, 0),
        Bill("single jobs, keys and records warm", per_million + sending + taking, 0, 0),
        Bill(
            "single jobs, every record read, every key cold", per_million + sending + taking, every_read, every_decrypt
        ),
        Bill("the demo's way: a message, a read and a Decrypt each", 6e6 * SQS_DOLLARS, every_read, every_decrypt),
        Bill("direct kms:Sign, beside $1 a key and month", 0, 0, 1e6 * SIGN_DOLLARS),
    ]
