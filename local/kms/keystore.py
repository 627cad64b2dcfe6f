"""The keys of the stand-in: one file a key in `STATE/keys`, aliases in one file; mode 0600, written atomically."""

import base64
import json
import os
import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Base64Bytes, Field

from config.keypolicy import Policy, PolicyKind, parse_policy
from local.files import write_private
from local.kms.errors import KmsError
from protocol.model import StrictModel

_MATERIAL_BYTES: Final = 32
_ALIAS: Final = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}")
_KEY_ARN: Final = re.compile(r"arn:aws:kms:([a-z0-9-]+):([0-9]{12}):(key/.+|alias/.+)")
_RESERVED: Final = "alias/aws/"


class _KeyFile(StrictModel):
    """A key as its file has it."""

    key_id: str
    material: Annotated[Base64Bytes, Field(min_length=_MATERIAL_BYTES, max_length=_MATERIAL_BYTES)]
    created_at_s: float
    description: str
    is_enabled: bool
    policy: str


@dataclass(frozen=True, slots=True)
class KmsKey:
    """A symmetric key. `policy` is `policy_text` parsed."""

    key_id: str
    arn: str
    material: bytes
    created_at_s: float
    description: str
    is_enabled: bool
    policy_text: str
    policy: Policy


class KeyStore:
    """All keys and aliases of one account and Region; one process at a time writes a state folder."""

    def __init__(self, state_dir: Path, *, region: str, account: str) -> None:
        self._folder = state_dir / "keys"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._aliases_file = state_dir / "aliases.json"
        self._region = region
        self._account = account
        self._keys = {key.key_id: key for key in map(self._load, sorted(self._folder.glob("*.json")))}
        self._aliases: dict[str, str] = (
            json.loads(self._aliases_file.read_bytes()) if self._aliases_file.exists() else {}
        )

    @property
    def keys(self) -> tuple[KmsKey, ...]:
        """All keys."""
        return tuple(self._keys.values())

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """All aliases with their key ids."""
        return tuple(sorted(self._aliases.items()))

    def arn_of(self, resource: str) -> str:
        """Return the ARN of `key/ID` or `alias/NAME`."""
        return f"arn:aws:kms:{self._region}:{self._account}:{resource}"

    def new_key(self, *, description: str, policy_text: str, now_s: float) -> KmsKey:
        """Return a key that is not stored yet: its policy may still refuse its maker."""
        key_id = str(uuid.uuid4())
        return KmsKey(
            key_id=key_id,
            arn=self.arn_of(f"key/{key_id}"),
            material=os.urandom(_MATERIAL_BYTES),
            created_at_s=now_s,
            description=description,
            is_enabled=True,
            policy_text=policy_text,
            policy=parse_policy(policy_text, PolicyKind.KEY),
        )

    def with_policy(self, key: KmsKey, policy_text: str) -> KmsKey:
        """Return the key with another policy, not stored yet.

        Raises:
            PolicyError: the policy does not parse.
        """
        return replace(key, policy_text=policy_text, policy=parse_policy(policy_text, PolicyKind.KEY))

    def save(self, key: KmsKey) -> None:
        """Store a key, new or changed."""
        content = {
            "key_id": key.key_id,
            "material": base64.b64encode(key.material).decode(),
            "created_at_s": key.created_at_s,
            "description": key.description,
            "is_enabled": key.is_enabled,
            "policy": key.policy_text,
        }
        write_private(self._folder / f"{key.key_id}.json", json.dumps(content, indent=1).encode())
        self._keys[key.key_id] = key

    def add_alias(self, name: str, key: KmsKey) -> None:
        """Give a key a name.

        Raises:
            KmsError: the name is not allowed, or taken.
        """
        if _ALIAS.fullmatch(name) is None or name.startswith(_RESERVED):
            raise KmsError("InvalidAliasNameException", f"{name} is not a valid alias name")
        if name in self._aliases:
            raise KmsError("AlreadyExistsException", f"An alias with the name {self.arn_of(name)} already exists")
        aliases = {**self._aliases, name: key.key_id}
        write_private(self._aliases_file, json.dumps(aliases, indent=1).encode())
        self._aliases = aliases

    def find(self, key_reference: str) -> KmsKey:
        """Return a key by its id, its ARN, an alias or an alias's ARN.

        Raises:
            KmsError: NotFoundException.
        """
        reference = key_reference
        if found := _KEY_ARN.fullmatch(key_reference):
            if (found[1], found[2]) != (self._region, self._account):
                raise KmsError("NotFoundException", f"Invalid arn {found[1]}")
            reference = found[3].removeprefix("key/")
        if reference.startswith("alias/"):
            if (key_id := self._aliases.get(reference)) is None:
                raise KmsError("NotFoundException", f"Alias {self.arn_of(reference)} is not found.")
            return self._keys[key_id]
        if (key := self._keys.get(reference)) is None:
            raise KmsError("NotFoundException", f"Key '{self.arn_of(f'key/{reference}')}' does not exist")
        return key

    def _load(self, path: Path) -> KmsKey:
        stored = _KeyFile.model_validate_json(path.read_bytes())
        return KmsKey(
            key_id=stored.key_id,
            arn=self.arn_of(f"key/{stored.key_id}"),
            material=stored.material,
            created_at_s=stored.created_at_s,
            description=stored.description,
            is_enabled=stored.is_enabled,
            policy_text=stored.policy,
            policy=parse_policy(stored.policy, PolicyKind.KEY),
        )
