"""Signatures, principals and management of the stand-in KMS."""

from __future__ import annotations

import json
import ssl
import stat
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from config.keypolicy import MAX_KEY_POLICY_BYTES
from local.kms import Credentials
from local.kms.principals import PrincipalEntry, read_principals, write_principals
from tests.local.kms.rig import ACCOUNT, GENERATOR, Rig, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from local.nitro_authority import NitroAuthority

USER = Credentials("AKIAUSER", "user secret", "")
USER_ARN = f"arn:aws:iam::{ACCOUNT}:user/alice"


def allow(principal: str | None, action: str | list[str], **elements: Any) -> dict[str, Any]:
    """Return a statement."""
    made: dict[str, Any] = {"Effect": "Allow", "Action": action, "Resource": "*", **elements}
    return made if principal is None else {**made, "Principal": {"AWS": principal}}


def as_policy(*statements: dict[str, Any]) -> str:
    """Return the text of a policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def register_user(rig: Rig, *actions: str) -> None:
    """Put a user into the registry, with an IAM policy."""
    principals = read_principals(rig.state)
    principals[USER.access_key_id] = PrincipalEntry(
        secret_access_key=USER.secret_access_key,
        principal_arn=USER_ARN,
        identity_policies={"Use": json.loads(as_policy(allow(None, list(actions))))},
    )
    write_principals(rig.state, principals)


async def test_anybody_may_make_and_use_a_key_of_his_own(running: Rig) -> None:
    """Unregistered credentials are the local user; without a Recipient the answers are plain."""
    async with running.client() as kms:
        metadata = (await kms.create_key(Description="mine"))["KeyMetadata"]
        await kms.create_alias(AliasName="alias/mine", TargetKeyId=metadata["KeyId"])
        described = (await kms.describe_key(KeyId="alias/mine"))["KeyMetadata"]
        assert metadata == described
        assert (described["Description"], described["Enabled"]) == ("mine", True)
        assert described["Arn"] == f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{metadata['KeyId']}"
        blob = await kms.encrypt(KeyId="alias/mine", Plaintext=b"secret", EncryptionContext={"a": "b"})
        answer = await kms.decrypt(CiphertextBlob=blob["CiphertextBlob"], EncryptionContext={"a": "b"})
        assert (answer["Plaintext"], answer["KeyId"]) == (b"secret", described["Arn"])
        data_key = await kms.generate_data_key(KeyId=described["Arn"], KeySpec="AES_128")
        assert len(data_key["Plaintext"]) == 16
        opened = await kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"], KeyId=f"{described['KeyId']}")
        assert data_key["Plaintext"] == opened["Plaintext"]
        assert len((await kms.generate_random(NumberOfBytes=7))["Plaintext"]) == 7
        assert described["KeyId"] in {key["KeyId"] for key in (await kms.list_keys())["Keys"]}
        aliases = {alias["AliasName"]: alias["TargetKeyId"] for alias in (await kms.list_aliases())["Aliases"]}
        assert aliases["alias/mine"] == described["KeyId"]
        await kms.disable_key(KeyId=described["KeyId"])
        code, text = await refusal(kms.encrypt(KeyId="alias/mine", Plaintext=b"x"))
        assert (code, text) == ("DisabledException", f"{described['Arn']} is disabled.")
        assert (await kms.describe_key(KeyId="alias/mine"))["KeyMetadata"]["KeyState"] == "Disabled"
        await kms.enable_key(KeyId=described["KeyId"])
        await kms.encrypt(KeyId="alias/mine", Plaintext=b"x")


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("create_alias", {"AliasName": "alias/nitro-signer", "TargetKeyId": "alias/nitro-signer"}, "AlreadyExists"),
        ("create_alias", {"AliasName": "alias/aws/x", "TargetKeyId": "alias/nitro-signer"}, "InvalidAliasName"),
        ("create_alias", {"AliasName": "nitro", "TargetKeyId": "alias/nitro-signer"}, "InvalidAliasName"),
        ("describe_key", {"KeyId": "alias/none"}, "NotFound"),
        ("describe_key", {}, "Validation"),
        ("create_key", {"KeySpec": "RSA_2048"}, "Validation"),
        ("create_key", {"Policy": "{}"}, "MalformedPolicyDocument"),
        ("create_key", {"Policy": " " * (MAX_KEY_POLICY_BYTES + 1)}, "LimitExceeded"),
        ("put_key_policy", {"KeyId": "alias/nitro-signer", "Policy": "[]"}, "MalformedPolicyDocument"),
        ("put_key_policy", {"KeyId": "alias/nitro-signer", "Policy": "x", "PolicyName": "mine"}, "Validation"),
        ("generate_random", {"NumberOfBytes": 0}, "Validation"),
        ("generate_random", {"NumberOfBytes": 1025}, "Validation"),
        ("generate_data_key", {"KeyId": "alias/nitro-signer"}, "Validation"),
        ("generate_data_key", {"KeyId": "x", "NumberOfBytes": 32, "KeySpec": "AES_256"}, "Validation"),
        ("encrypt", {"KeyId": "alias/nitro-signer", "Plaintext": b"x" * 4097}, "Validation"),
        ("schedule_key_deletion", {"KeyId": "alias/nitro-signer"}, "UnknownOperation"),
    ],
)
async def test_bad_requests_have_the_codes_of_kms(
    running: Rig, operation: str, arguments: dict[str, Any], code: str
) -> None:
    """Each refusal has its own code."""
    async with running.client() as kms:
        assert f"{code}Exception" == (await refusal(getattr(kms, operation)(**arguments)))[0]


async def test_a_policy_that_locks_its_author_out_is_refused(running: Rig) -> None:
    """PutKeyPolicy and CreateKey look ahead, unless told not to; the refused policy changes nothing."""
    lockout = as_policy(allow(USER_ARN, "kms:*"))
    async with running.client() as kms:
        before = await kms.get_key_policy(KeyId=running.key_arn)
        for call in (
            kms.put_key_policy(KeyId=running.key_arn, Policy=lockout),
            kms.create_key(Policy=lockout),
        ):
            code, text = await refusal(call)
            assert code == "MalformedPolicyDocumentException"
            assert text == "The new key policy will not allow you to update the key policy in the future."
        assert before["Policy"] == (await kms.get_key_policy(KeyId=running.key_arn))["Policy"]
        await kms.create_key(Policy=lockout, BypassPolicyLockoutSafetyCheck=True)
        await kms.put_key_policy(KeyId=running.key_arn, Policy=lockout, BypassPolicyLockoutSafetyCheck=True)
        assert (await refusal(kms.get_key_policy(KeyId=running.key_arn)))[0] == "AccessDeniedException"


async def test_the_account_hands_the_decision_to_iam(running: Rig) -> None:
    """Under the default key policy a registered user may do what his IAM policy allows, as soon as it is written."""
    async with running.client() as admin:
        arn = (await admin.create_key())["KeyMetadata"]["Arn"]
    register_user(running, "kms:Encrypt")
    async with running.client(USER) as kms:
        blob = (await kms.encrypt(KeyId=arn, Plaintext=b"x"))["CiphertextBlob"]
        code, text = await refusal(kms.decrypt(CiphertextBlob=blob))
        assert code == "AccessDeniedException"
        assert text.endswith("because no identity-based policy allows the kms:Decrypt action")
        register_user(running, "kms:Encrypt", "kms:Decrypt")
        assert (await kms.decrypt(CiphertextBlob=blob))["Plaintext"] == b"x"


async def test_registered_callers_must_sign(running: Rig) -> None:
    """A wrong secret, a wrong token, another Region's or service's signature and a clock that is off are refused."""
    good = running.access.generator
    wrong_secret = Credentials(good.access_key_id, "wrong", good.session_token)
    wrong_token = Credentials(good.access_key_id, good.secret_access_key, good.session_token + "x")
    recipient = running.recipient(GENERATOR)
    for credentials, options, code in (
        (good, {}, None),
        (wrong_secret, {}, "InvalidSignatureException"),
        (wrong_token, {}, "UnrecognizedClientException"),
        (Credentials(good.access_key_id, good.secret_access_key, ""), {}, "UnrecognizedClientException"),
        (good, {"region_name": "us-west-2"}, "InvalidSignatureException"),
        (Credentials("AKIAUNKNOWN", "x", "y"), {"region_name": "us-west-2"}, None),
    ):
        async with running.client(credentials, **options) as kms:
            call = kms.generate_random(NumberOfBytes=1, Recipient=recipient)
            if code is None:
                await call
            else:
                assert code == (await refusal(call))[0]
    async with running.client(good) as kms:
        for shift_s, word in ((16 * 60, "expired"), (-16 * 60, "not yet current")):
            running.clock.shift_s = shift_s
            code, text = await refusal(kms.generate_random(NumberOfBytes=1))
            assert (code, word in text) == ("InvalidSignatureException", True)


SCOPE = "20260101/us-east-1/kms/aws4_request"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "MissingAuthenticationTokenException"),
        ({"Authorization": "Bearer x"}, "IncompleteSignatureException"),
        (
            {"Authorization": f"AWS4-HMAC-SHA256 Credential=KEY/{SCOPE}, SignedHeaders=host, Signature={'0' * 64}"},
            "IncompleteSignatureException",  # no date
        ),
        (
            {
                "Authorization": f"AWS4-HMAC-SHA256 Credential=KEY/{SCOPE}, SignedHeaders=host, Signature={'0' * 64}",
                "X-Amz-Date": "now",
            },
            "InvalidSignatureException",  # the date is not signed
        ),
        (
            {
                "Authorization": f"AWS4-HMAC-SHA256 Credential=KEY/{SCOPE}, SignedHeaders=host;x-amz-date;x-none, "
                f"Signature={'0' * 64}",
                "X-Amz-Date": "now",
            },
            "IncompleteSignatureException",  # a signed header is missing
        ),
    ],
)
async def test_raw_requests_are_refused_by_their_fault(running: Rig, headers: dict[str, str], code: str) -> None:
    """Headers that no SDK would send, over plain HTTPS."""
    time = "20260101T000000Z"
    running.clock.shift_s += 1767225600 - running.clock()  # that time
    headers = {name: value.replace("KEY", running.access.signer.access_key_id) for name, value in headers.items()}
    headers = {name: time if value == "now" else value for name, value in headers.items()}
    headers |= {"X-Amz-Target": "TrentService.ListKeys", "X-Amz-Security-Token": running.access.signer.session_token}
    context = ssl.create_default_context(cafile=running.kms.ca_bundle)
    async with (
        aiohttp.ClientSession() as session,
        session.post(running.kms.endpoint_url, data=b"{}", headers=headers, ssl=context) as response,
    ):
        assert response.status == 400
        assert (await response.json(content_type="application/x-amz-json-1.1"))["__type"] == code
        assert response.headers["x-amzn-RequestId"]


async def test_a_body_that_is_not_json_is_told_so(running: Rig) -> None:
    """SerializationException, as AWS JSON services answer."""
    authorization = f"AWS4-HMAC-SHA256 Credential=AKIAX/{SCOPE}, SignedHeaders=host, Signature={'0' * 64}"
    headers = {"Authorization": authorization, "X-Amz-Target": "TrentService.ListKeys"}
    context = ssl.create_default_context(cafile=running.kms.ca_bundle)
    for body, code in (
        (b"{", "SerializationException"),
        (b"[]", "ValidationException"),
        (b'{"NumberOfBytes": "1"}', "ValidationException"),
    ):
        headers["X-Amz-Target"] = "TrentService.GenerateRandom"
        async with (
            aiohttp.ClientSession() as session,
            session.post(running.kms.endpoint_url, data=body, headers=headers, ssl=context) as response,
        ):
            assert (await response.json(content_type=None))["__type"] == code


async def test_blobs_must_be_base64(running: Rig) -> None:
    """A member that is a blob is a text in base64."""
    authorization = f"AWS4-HMAC-SHA256 Credential=AKIAX/{SCOPE}, SignedHeaders=host, Signature={'0' * 64}"
    headers = {"Authorization": authorization, "X-Amz-Target": "TrentService.Decrypt"}
    context = ssl.create_default_context(cafile=running.kms.ca_bundle)
    async with aiohttp.ClientSession() as session:
        for body in ({"CiphertextBlob": "###"}, {"CiphertextBlob": 1}):
            async with session.post(running.kms.endpoint_url, json=body, headers=headers, ssl=context) as response:
                answer = await response.json(content_type=None)
                assert (answer["__type"], "base64" in answer["message"]) == ("ValidationException", True)


async def test_state_survives_and_is_private(rig: Rig) -> None:
    """A second server on the same folder knows keys, aliases, policies and credentials; secrets have mode 0600."""
    async with rig.serve(), rig.client() as kms:
        arn = (await kms.create_key())["KeyMetadata"]["Arn"]
        await kms.create_alias(AliasName="alias/kept", TargetKeyId=arn)
        blob = (await kms.encrypt(KeyId=arn, Plaintext=b"kept"))["CiphertextBlob"]
        port, ca = rig.kms.port, rig.kms.ca_bundle.read_bytes()
    access, key_arn = rig.access, rig.key_arn
    rig.provision()
    assert (access, key_arn) == (rig.access, rig.key_arn)
    async with rig.serve(port=port), rig.client() as kms:
        assert (await kms.decrypt(CiphertextBlob=blob))["Plaintext"] == b"kept"
        assert (await kms.describe_key(KeyId="alias/kept"))["KeyMetadata"]["Arn"] == arn
        assert ca == rig.kms.ca_bundle.read_bytes()
    assert _modes(rig.state) == {0o600}


def _modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


async def test_a_port_in_use_is_an_error_that_leaves_nothing_running(running: Rig) -> None:
    """The second server says so and closes what it had opened."""
    first = running.kms
    with pytest.raises(OSError, match="address already in use"):
        async with running.serve(port=first.port):
            pass


async def test_an_empty_state_folder_is_enough(tmp_path: Path, nitro_authority: NitroAuthority) -> None:
    """Without key and registry anybody can start by making a key."""
    empty = Rig(tmp_path / "new", nitro_authority)
    async with empty.serve(), empty.client() as kms:
        assert (await kms.list_keys())["Keys"] == []
        assert (await kms.create_key())["KeyMetadata"]["KeyState"] == "Enabled"
