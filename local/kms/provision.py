"""Key, roles and policies of the local stack, as files of a state folder, before the server starts.

In two steps, because the key's ARN is measured: it has to exist before the images, whose PCR0 the policies name.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.keypolicy import AllowedImages, make_identity_policy, make_key_policy
from local.kms.keystore import KeyStore
from local.kms.management import default_key_policy
from local.kms.principals import PrincipalEntry, local_user_arn, read_principals, write_principals

DEFAULT_ALIAS: Final = "alias/nitro-signer"
GENERATOR_ROLE: Final = "nitro-local-generator"
SIGNER_ROLE: Final = "nitro-local-signer"
_SESSION: Final = "nitro-local"


@dataclass(frozen=True, slots=True)
class KmsAccount:
    """A state folder and whose keys are in it."""

    state_dir: Path
    region: str = "us-east-1"
    account: str = "000000000000"

    def open_store(self) -> KeyStore:
        """Open the keys. Not while a server runs on the same folder."""
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return KeyStore(self.state_dir, region=self.region, account=self.account)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary credentials of a role's session."""

    access_key_id: str
    secret_access_key: str
    session_token: str


@dataclass(frozen=True, slots=True)
class RoleAccess:
    """The credentials of the two instances."""

    generator: Credentials
    signer: Credentials


def ensure_key(place: KmsAccount, *, now_s: float, alias: str = DEFAULT_ALIAS) -> str:
    """Return the ARN of the key behind an alias; make it, with the default key policy, if there is none."""
    store = place.open_store()
    if alias in dict(store.aliases):
        return store.find(alias).arn
    key = store.new_key(
        description="data keys of nitro-signer", policy_text=default_key_policy(place.account), now_s=now_s
    )
    store.save(key)
    store.add_alias(alias, key)
    return key.arn


def provision_roles(
    place: KmsAccount, key_arn: str, *, generator_images: AllowedImages, signer_images: AllowedImages
) -> RoleAccess:
    """Give the key the policy of these images, and each role its session and IAM policy. Keeps credentials."""
    store = place.open_store()
    policy = make_local_key_policy(place.account, generator_images=generator_images, signer_images=signer_images)
    store.save(store.with_policy(store.find(key_arn), json.dumps(policy, indent=2)))
    return register_sessions(place, generator_images=generator_images)


def make_local_key_policy(
    account: str, *, generator_images: AllowedImages, signer_images: AllowedImages
) -> dict[str, Any]:
    """Return the key policy of the local stack; its administrator is everybody whose access key is not registered."""
    return make_key_policy(
        generator_role_arn=role_arn(account, GENERATOR_ROLE),
        generator_images=generator_images,
        signer_role_arn=role_arn(account, SIGNER_ROLE),
        signer_images=signer_images,
        admin_arns=[local_user_arn(account)],
    )


def register_sessions(place: KmsAccount, *, generator_images: AllowedImages) -> RoleAccess:
    """Give each role its session and IAM policy. Keeps credentials; a running server takes the change up."""
    place.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    principals = read_principals(place.state_dir)
    policies = {"TakeRandomness": make_identity_policy(generator_images)}
    generator = _give_session(principals, place.account, GENERATOR_ROLE, policies)
    signer = _give_session(principals, place.account, SIGNER_ROLE, {})
    write_principals(place.state_dir, principals)
    return RoleAccess(generator, signer)


def role_arn(account: str, role: str) -> str:
    """Return the ARN of a role of the local account."""
    return f"arn:aws:iam::{account}:role/{role}"


def _give_session(
    principals: dict[str, PrincipalEntry], account: str, role: str, policies: dict[str, dict[str, Any]]
) -> Credentials:
    arn = f"arn:aws:sts::{account}:assumed-role/{role}/{_SESSION}"
    known = next((item for item in principals.items() if item[1].principal_arn == arn), None)
    access_key_id, entry = known or (f"ASIA{secrets.token_hex(8).upper()}", None)
    secret = entry.secret_access_key if entry else secrets.token_urlsafe(30)
    token = (entry.session_token if entry else None) or secrets.token_urlsafe(96)
    principals[access_key_id] = PrincipalEntry(
        secret_access_key=secret, principal_arn=arn, session_token=token, identity_policies=policies
    )
    return Credentials(access_key_id, secret, token)
