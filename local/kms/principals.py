"""Who may sign requests: the registry of access keys in `STATE/principals.json`, with the IAM policies of each.

An access key that is not registered is the account's own user `local`, with all permissions that IAM can give, so that
any AWS client with any credentials can talk to the stand-in. The key policy decides about keys even then.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from config.keypolicy import Policy, PolicyKind, Principal, parse_policy
from local.files import write_private
from protocol.model import StrictModel

_FILE: Final = "principals.json"
_ALLOW_KMS: Final = json.dumps(
    {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}
)


class PrincipalEntry(StrictModel):
    """One access key, as the registry has it."""

    secret_access_key: str
    principal_arn: str
    """Of a role's session (`arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`), a role or a user."""

    session_token: str | None = None
    """If set, a request without exactly this token is refused; without it any token passes."""

    identity_policies: Annotated[dict[str, dict[str, Any]], Field(default_factory=dict)]
    """IAM policies by name."""


class _Registry(StrictModel):
    principals: dict[str, PrincipalEntry]
    """By access key id."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The one who signed a request. `secret_access_key` is None for a key that nobody registered."""

    access_key_id: str
    principal: Principal
    identity_policies: Mapping[str, Policy]
    secret_access_key: str | None
    session_token: str | None


class PrincipalRegistry:
    """The registry of a state folder; read again when its file changes, so that roles can come while a server runs."""

    def __init__(self, state_dir: Path, *, account: str) -> None:
        self._state_dir = state_dir
        self._local = Principal.parse(local_user_arn(account))
        self._local_policies = {"AllowKms": parse_policy(_ALLOW_KMS, PolicyKind.IDENTITY)}
        self._version: tuple[int, int] | None = None
        self._callers: dict[str, Caller] = {}

    def find(self, access_key_id: str) -> Caller:
        """Return who an access key belongs to."""
        version = _version_of(self._state_dir / _FILE)
        if version != self._version:
            self._callers = {key: _to_caller(key, entry) for key, entry in read_principals(self._state_dir).items()}
            self._version = version
        known = self._callers.get(access_key_id)
        return known or Caller(access_key_id, self._local, self._local_policies, None, None)


def _version_of(path: Path) -> tuple[int, int] | None:
    """The file is replaced, never changed: a new one has another inode or time."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _to_caller(access_key_id: str, entry: PrincipalEntry) -> Caller:
    return Caller(
        access_key_id=access_key_id,
        principal=Principal.parse(entry.principal_arn),
        identity_policies={
            name: parse_policy(json.dumps(policy), PolicyKind.IDENTITY)
            for name, policy in entry.identity_policies.items()
        },
        secret_access_key=entry.secret_access_key,
        session_token=entry.session_token,
    )


def local_user_arn(account: str) -> str:
    """Return the ARN of everybody who is not registered."""
    return f"arn:aws:iam::{account}:user/local"


def read_principals(state_dir: Path) -> dict[str, PrincipalEntry]:
    """Return the registry of a state folder; empty where there is none."""
    path = state_dir / _FILE
    return _Registry.model_validate_json(path.read_bytes()).principals if path.exists() else {}


def write_principals(state_dir: Path, principals: Mapping[str, PrincipalEntry]) -> None:
    """Write the registry of a state folder."""
    write_private(state_dir / _FILE, _Registry(principals=dict(principals)).model_dump_json(indent=1).encode())
