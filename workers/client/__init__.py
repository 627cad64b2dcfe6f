"""The client of the service: puts jobs on the queues, waits for their replies, and believes none of them unverified.

A public key comes out of `generate` only after its birth certificate was verified; a signature comes out of `sign` only
after it was verified with such a key, or with one that the caller has pinned. What a reply says of itself counts for
nothing. Needs neither the enclave's code nor an AWS account of the service's owner: two queues to send to, and a reply
queue of its own.
"""

from workers.client.client import ClientStats, SigningClient
from workers.client.errors import AnswerRefusedError, BadRequestError, JobFailedError, NoAnswerError, SigningError
from workers.client.settings import BirthTrust, ClientConfigError, ClientSettings, load_client_settings
from workers.client.sync import SyncSigningClient
from workers.client.values import PublicKey, Signature, SignRequest, SignResult

__all__ = [
    "AnswerRefusedError",
    "BadRequestError",
    "BirthTrust",
    "ClientConfigError",
    "ClientSettings",
    "ClientStats",
    "JobFailedError",
    "NoAnswerError",
    "PublicKey",
    "SignRequest",
    "SignResult",
    "Signature",
    "SigningClient",
    "SigningError",
    "SyncSigningClient",
    "load_client_settings",
]
