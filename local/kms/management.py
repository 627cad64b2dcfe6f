"""Operations that make, name, show and govern keys."""

import json
from dataclasses import replace
from typing import Any, Final

from config.keypolicy import MAX_KEY_POLICY_BYTES, PolicyError
from local.kms.call import Call
from local.kms.errors import KmsError
from local.kms.keystore import KeyStore, KmsKey
from local.kms.requests import (
    CreateAliasInput,
    CreateKeyInput,
    GetKeyPolicyInput,
    KeyInput,
    ListInput,
    PutKeyPolicyInput,
)

_MALFORMED: Final = "MalformedPolicyDocumentException"


class KeyManagement:
    """The operations, on the keys of a store."""

    def __init__(self, store: KeyStore, *, account: str) -> None:
        self._store = store
        self._account = account

    def create_key(self, call: Call, request: CreateKeyInput) -> dict[str, Any]:
        """Make a symmetric key, with the given policy or the one that leaves all to IAM."""
        call.parameters = {"keySpec": request.key_spec, "keyUsage": request.key_usage}
        call.authorize(None)
        policy_text = request.policy or default_key_policy(self._account)
        _check_length(policy_text)
        try:
            key = self._store.new_key(description=request.description, policy_text=policy_text, now_s=call.now_s)
        except PolicyError as error:
            raise KmsError(_MALFORMED, str(error)) from error
        _check_lockout(call, key, bypass=request.bypass_policy_lockout_safety_check)
        self._store.save(key)
        call.key = key
        return {"KeyMetadata": self._metadata(key)}

    def describe_key(self, call: Call, request: KeyInput) -> dict[str, Any]:
        """Show a key."""
        return {"KeyMetadata": self._metadata(self._find(call, request.key_id))}

    def enable_key(self, call: Call, request: KeyInput) -> None:
        """Let the key be used."""
        self._store.save(replace(self._find(call, request.key_id), is_enabled=True))

    def disable_key(self, call: Call, request: KeyInput) -> None:
        """Let the key not be used."""
        self._store.save(replace(self._find(call, request.key_id), is_enabled=False))

    def get_key_policy(self, call: Call, request: GetKeyPolicyInput) -> dict[str, Any]:
        """Show a key's policy as it was put."""
        key = self._find(call, request.key_id)
        return {"Policy": key.policy_text, "PolicyName": request.policy_name}

    def put_key_policy(self, call: Call, request: PutKeyPolicyInput) -> None:
        """Replace a key's policy, unless it does not parse or would lock the caller out."""
        key = self._find(call, request.key_id)
        _check_length(request.policy)
        try:
            changed = self._store.with_policy(key, request.policy)
        except PolicyError as error:
            raise KmsError(_MALFORMED, str(error)) from error
        _check_lockout(call, changed, bypass=request.bypass_policy_lockout_safety_check)
        self._store.save(changed)

    def create_alias(self, call: Call, request: CreateAliasInput) -> None:
        """Name a key."""
        call.parameters = {"aliasName": request.alias_name}
        self._store.add_alias(request.alias_name, self._find(call, request.target_key_id))

    def list_keys(self, call: Call, _: ListInput) -> dict[str, Any]:
        """Show all keys."""
        call.authorize(None)
        return {"Keys": [{"KeyId": key.key_id, "KeyArn": key.arn} for key in self._store.keys], "Truncated": False}

    def list_aliases(self, call: Call, _: ListInput) -> dict[str, Any]:
        """Show all aliases."""
        call.authorize(None)
        aliases = [
            {"AliasName": name, "AliasArn": self._store.arn_of(name), "TargetKeyId": key_id}
            for name, key_id in self._store.aliases
        ]
        return {"Aliases": aliases, "Truncated": False}

    def _find(self, call: Call, key_reference: str) -> KmsKey:
        call.parameters["keyId"] = key_reference
        key = self._store.find(key_reference)
        call.authorize(key)
        return key

    def _metadata(self, key: KmsKey) -> dict[str, Any]:
        return {
            "AWSAccountId": self._account,
            "KeyId": key.key_id,
            "Arn": key.arn,
            "CreationDate": key.created_at_s,
            "Enabled": key.is_enabled,
            "Description": key.description,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": "Enabled" if key.is_enabled else "Disabled",
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": False,
        }


def default_key_policy(account: str) -> str:
    """Return the policy that KMS gives a key made through the API: the account's IAM policies decide everything."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}, indent=2)


def _check_length(policy_text: str) -> None:
    if len(policy_text.encode()) > MAX_KEY_POLICY_BYTES:
        raise KmsError("LimitExceededException", f"a key policy has at most {MAX_KEY_POLICY_BYTES} bytes")


def _check_lockout(call: Call, key: KmsKey, *, bypass: bool) -> None:
    if not bypass and not call.may_put_policy(key, key.policy):
        raise KmsError(_MALFORMED, "The new key policy will not allow you to update the key policy in the future.")
