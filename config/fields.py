"""The closed list of fields that a log line may have, each with its meaning: the published table is made from it.

A field that is not here is never written. So no body, key, ciphertext, credential or receipt handle can reach a log by
a careless argument.
"""

from collections.abc import Mapping
from typing import Final

FIELDS: Final[Mapping[str, str]] = {
    # Every line
    "timestamp": "when, RFC 3339 in UTC",
    "level": "debug, info, warning, error or critical",
    "role": "which program writes",
    "pid": "its process id",
    "event": "what happened, as a fixed name",
    # Jobs
    "job_id": "the job's own id, or the SQS message id",
    "item": "place of a signature in its bulk job, from 0",
    "message_id": "the SQS message id",
    "job_type": "generate, sign, sign_batch or unknown",
    "userid": "whose key",
    "publickey": "x||y of a public key, 128 hexadecimal digits",
    "digest": "the 32 bytes that were signed, hexadecimal",
    "receive_count": "how often SQS has handed the message out",
    "created": "whether a new key was made",
    "queue": "name of a queue",
    "count": "how many",
    "dropped": "how many log events were lost before they could be told",
    "in_flight": "jobs or requests at work",
    "delay_s": "seconds until the next try",
    "duration_ms": "how long it took, in milliseconds",
    # Failures
    "code": "an error code: ours, that of an AWS service, or the name of a library's exception",
    "error": "why, in fixed words of this project or of the operating system",
    "error_type": "class of an exception",
    "error_place": "file and line of this project's code that met the exception",
    "reason": "why something is not ready, from a closed set",
    "library": "name of the library logger that reported something; its text is not written",
    "dropped_fields": "names of fields that are not on this list and were left out",
    # Enclaves
    "source": "enclave, when the event comes from inside one",
    "address": "address of an enclave process",
    "module_id": "the NSM's name of an enclave, as CloudTrail shows it",
    "instance": "random id of one start of an enclave process, hexadecimal",
    "process": "number of a process of an enclave, or of a worker's group",
    "exit_code": "with which a process ended; a signal's number with a minus",
    "processes": "how many processes an enclave has",
    "software": "name and version that an enclave states",
    "expected": "what the configuration asks for",
    "found": "what is there instead",
    "nsm_code": "error code of the Nitro Secure Module",
    "offset_s": "how far a clock is from attested time, in seconds",
    "enclave_time": "when, by the enclave's own clock, in seconds since the Unix epoch",
    "expires_in_s": "seconds until credentials expire",
    # vsock-proxy
    "listen": "listening address",
    "destination": "host and port that connections go to",
    "addresses": "how many addresses DNS answered",
    "cause": "why a connection was refused, failed or ended",
    "left_out": "how many equal lines were left out before this one",
    "open": "open connections",
    "accepted": "accepted connections of the interval",
    "refused": "refused connections of the interval",
    "failed": "failed connections of the interval",
    "dns_failures": "failed DNS lookups of the interval",
    "bytes_up": "bytes from the enclave in the interval",
    "bytes_down": "bytes to the enclave in the interval",
    "connect_ms": "how long connecting took, in milliseconds",
    "connect_ms_p50": "median of connect_ms over the interval",
    "connect_ms_p99": "99th percentile of connect_ms over the interval",
    "max_connections": "limit of open connections",
}
"""Name and meaning. A name stands for one thing in all programs."""

ENCLAVE_FIELDS: Final = frozenset(
    {"code", "count", "error_type", "library", "nsm_code", "offset_s", "reason", "process"}
)
"""All that an enclave tells of a log event, and that the parent takes over, beside its name, level and time: an enclave
cannot write a job id or a role into the parent's log."""

MAX_TEXT_CHARACTERS: Final = 256
"""Longest value of a field. The longest honest one is a public key or an address, about half of that."""
