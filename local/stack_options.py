"""How a local stack may differ from that of `nitro-local up`: for tests that break it or replace its parts."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

from local.enclave_platform import EnclavePlatform, ProcessPlatform
from local.kms import KmsFaults


@dataclass(frozen=True, slots=True)
class AwsEndpoints:
    """Where SQS and DynamoDB answer."""

    sqs_url: str
    dynamodb_url: str


Front: TypeAlias = Callable[[AwsEndpoints], AbstractAsyncContextManager[AwsEndpoints]]
"""Stands before the endpoints: given the real ones, it yields those that the workers are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """Everything that can be chosen. The defaults are the stack of `nitro-local up`."""

    endpoints: AwsEndpoints | None = None
    """SQS and DynamoDB servers that run already; None starts MiniStack."""

    front: Front | None = None
    """Comes between the workers, and only these, and SQS and DynamoDB."""

    kms_faults: KmsFaults = field(default_factory=KmsFaults)
    """What the attesting KMS does wrong."""

    enclaves: EnclavePlatform = field(default_factory=ProcessPlatform)
    """What the enclaves run on."""

    worker_environ: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the workers: `NITRO_SIGNER_*`, see `config.worker`."""
