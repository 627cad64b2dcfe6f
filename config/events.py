"""The closed list of log events, each with its program and its meaning: the published table is made from it.

An event that is not here fails a test, and so does one that no code writes any more.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple


class Event(NamedTuple):
    """Who writes an event, and what it means."""

    program: Literal["worker", "enclave", "vsock-proxy", "all"]
    meaning: str


EVENTS: Final[Mapping[str, Event]] = {
    "worker_started": Event("worker", "the process works"),
    "worker_ended": Event("worker", "it has drained; `in_flight` messages were left unsettled"),
    "worker_process_started": Event("worker", "the group started one of its processes"),
    "worker_process_not_started": Event("worker", "a process of the group could not be started; it is tried again"),
    "worker_process_ended": Event("worker", "a process of the group ended; it is started again"),
    "worker_process_hung": Event("worker", "a process gave no sign of life and was killed"),
    "worker_processes_killed": Event("worker", "processes that did not drain in time were killed"),
    "worker_crash_loop": Event("worker", "processes end faster than restarting makes sense: the group ends"),
    "health_report_refused": Event("worker", "a process told something about its health that is no report"),
    "signing_paused": Event("worker", "an operator has paused signing"),
    "signing_open": Event("worker", "signing is not paused"),
    "pause_switch_unreadable": Event("worker", "the pause switch cannot be read: signing waits"),
    "health_port_taken": Event(
        "worker", "`health_port` cannot be had at `address`: another program has it; the worker ends"
    ),
    "worker_failed": Event("worker", "it ends because of a fault; `error_place` says where"),
    "drain_started": Event("worker", "no new jobs are taken"),
    "drain_deadline_passed": Event("worker", "the rest is given back to the queue"),
    "jobs_abandoned": Event("worker", "messages were left to their visibility timeout"),
    "receive_failed": Event("worker", "a poll failed"),
    "job_failed": Event("worker", "one job failed this time; `code` says why"),
    "job_lost": Event("worker", "the message's visibility ran out while it was worked on"),
    "job_lapsed": Event("worker", "the message could not be settled and comes again"),
    "heartbeat_lost": Event("worker", "SQS says that a message is no longer ours"),
    "batch_call_failed": Event("worker", "a batch call to SQS failed as a whole"),
    "batch_entry_failed": Event("worker", "SQS refused one entry of a batch"),
    "handler_failed": Event("worker", "a fault of our own; all jobs of a batch failed"),
    "handler_miscounted": Event("worker", "a fault of our own"),
    "collected_call_failed": Event("worker", "a fault of our own; all jobs of a shared call failed"),
    "collected_call_miscounted": Event("worker", "a fault of our own"),
    "store_call_failed": Event("worker", "DynamoDB failed in spite of every try"),
    "key_made": Event("worker", "audit: a key was born and stored"),
    "key_found": Event("worker", "a generate job came again; the key that exists was returned"),
    "new_key_refused": Event("worker", "the enclave's answer was not a key for this user id"),
    "signature_made": Event("worker", "audit: a verified signature left"),
    "signature_refused": Event("worker", "the enclave's signature does not verify: nothing left"),
    "enclave_connected": Event("worker", "a connection to an enclave process is open"),
    "enclave_disconnected": Event("worker", "it ended"),
    "enclave_ready": Event("worker", "the process works"),
    "enclave_not_ready": Event("worker", "it refuses to work; `reason` says why"),
    "enclave_unreachable": Event("worker", "nobody answers at its address"),
    "enclave_restarted": Event("worker", "the process behind an address is another one than before"),
    "enclave_is_another": Event("worker", "role or KMS key of the enclave are not those of the settings"),
    "enclave_miscounted": Event("worker", "the enclave answered with another number of results"),
    "enclave_events_dropped": Event("worker", "log events of an enclave were lost"),
    "credentials_unavailable": Event("worker", "there are no AWS credentials to lend"),
    "started": Event("enclave", "an enclave process works"),
    "start_failed": Event("enclave", "it cannot work; `reason` says why"),
    "memory_not_locked": Event("enclave", "memory could not be locked"),
    "clock_set": Event("enclave", "the clock was set from attested time"),
    "clock_drift": Event("enclave", "the clock is off by more than allowed"),
    "clock_not_settable": Event("enclave", "the clock may not be set"),
    "clock_check_failed": Event("enclave", "attested time could not be had"),
    "recipient_rotation_failed": Event(
        "enclave", "no new key and document for KMS; the old ones are used until they expire"
    ),
    "kms_answer_unreadable": Event("enclave", "the SDK could not read an answer of KMS; the job fails for now"),
    "item_failed": Event("enclave", "a fault of our own with one item"),
    "listening": Event("vsock-proxy", "it serves"),
    "draining": Event("vsock-proxy", "no new connections are taken"),
    "drained": Event("vsock-proxy", "all have ended"),
    "drain_deadline": Event("vsock-proxy", "the rest is cut"),
    "proxy_health": Event("vsock-proxy", "figures of one interval"),
    "dns_answered": Event("vsock-proxy", "the addresses of a destination have changed"),
    "dns_failed": Event("vsock-proxy", "a lookup failed; the old addresses are used"),
    "destination_not_allowed": Event("vsock-proxy", "the allow-list forbids what DNS answered"),
    "connect_failed": Event("vsock-proxy", "a destination could not be reached"),
    "connection_refused": Event("vsock-proxy", "an enclave's connection was refused"),
    "connection_ended": Event("vsock-proxy", "a connection ended in another way than by closing"),
    "connection_crashed": Event("vsock-proxy", "a fault of our own with one connection"),
    "accept_failed": Event("vsock-proxy", "connections could not be accepted"),
    "descriptor_limit_low": Event("vsock-proxy", "fewer file descriptors than `max_connections` needs"),
    "library_report": Event("all", "a library reported something; `library` says which, its text is not written"),
}
