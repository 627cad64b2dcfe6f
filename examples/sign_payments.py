"""A wallet back end in one page: a key for each customer, many signatures at once, everything verified before use.

    python examples/sign_payments.py client.toml

On a local stack: `nitro-local up --state ./stack &`, `eval "$(nitro-local env --state ./stack)"`, and then
`python examples/sign_payments.py ./stack/client.toml`.
"""

import asyncio
import sys
from pathlib import Path

from protocol.messages import Digest, SignatureFormat
from workers.client import (
    AnswerRefusedError,
    JobFailedError,
    SigningClient,
    SigningError,
    SignRequest,
    load_client_settings,
)

CUSTOMERS = ("customer-1", "customer-2")
PAYMENTS = 20


async def main() -> None:
    """Make the keys, sign the payments, and meet two errors."""
    settings = load_client_settings(Path(sys.argv[1]))
    async with SigningClient(settings) as client:
        # A key comes back only after its birth certificate was verified: an enclave of a trusted image has made it.
        # Keep `key.xy` in your own database, and pin it at the next start: client.pin(userid, xy).
        keys = [await client.generate(userid) for userid in CUSTOMERS]
        for key in keys:
            print(f"{key.userid}: {key.ethereum_address}")

        # One signature. It was verified with that key before it is here.
        greeting = await client.sign(
            "customer-1", "Hello Ethereum", digest=Digest.EIP191, format=SignatureFormat.RECOVERABLE
        )
        print(f"personal_sign: 0x{greeting.data[:64].hex()}{27 + greeting.recovery_id:02x}")

        # Many at once: sent in tens, answered in any order, yielded in the order of the requests. One that fails does
        # not stop the others.
        requests = (SignRequest(CUSTOMERS[number % 2], f"payment {number}") for number in range(PAYMENTS))
        signed = 0
        async for result in client.sign_many(requests):
            if isinstance(result.outcome, SigningError):
                print(f"{result.request.message!r}: {result.outcome}")
            else:
                signed += 1
        print(f"{signed} of {PAYMENTS} payments signed")

        # Errors have a code of a closed list, and their class says whom to ask.
        client.pin("customer-9", keys[0].xy)
        try:
            await client.sign("customer-9", "a user id without a key")
        except AnswerRefusedError as error:
            print(f"somebody lies; wake a person: {error}")
        except JobFailedError as error:
            print(f"{error.code}, retryable: {error.retryable}")


if __name__ == "__main__":
    asyncio.run(main())
