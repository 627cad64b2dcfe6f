"""The service as its users meet it: plain boto3 on one side, the `cryptography` package on the other."""

import hashlib
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tests.stack.harness import Client

pytestmark = pytest.mark.stack


def verify(publickey: str, signature: str, message: bytes) -> None:
    """Verify a compact signature with a library that the service does not use for it."""
    raw = bytes.fromhex(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), bytes.fromhex("04" + publickey))
    key.verify(der, hashlib.sha256(message).digest(), ec.ECDSA(Prehashed(SHA256())))


def test_twenty_keys_and_two_hundred_signatures(client: Client) -> None:
    """20 generate and 200 sign jobs for 20 users: each is answered, each signature is by the key of its user."""
    users = [f"e2e-{number:02}" for number in range(20)]
    client.send("generate", *({"type": "generate", "job_id": f"g-{user}", "userid": user} for user in users))
    keys = {reply["userid"]: reply["publickey"] for reply in client.replies(20, among={f"g-{user}" for user in users})}
    assert sorted(keys) == users
    assert len(set(keys.values())) == 20
    jobs = {
        f"s-{number}": {
            "type": "sign",
            "job_id": f"s-{number}",
            "userid": users[number % 20],
            "message": f"message {number}",
        }
        for number in range(200)
    }
    client.send("sign", *jobs.values())
    replies = {reply["job_id"]: reply for reply in client.replies(200, among=jobs)}
    assert sorted(replies) == sorted(jobs)
    for job_id, reply in replies.items():
        job = jobs[job_id]
        assert (reply["status"], reply["userid"], reply["verified"]) == ("ok", job["userid"], True)
        assert reply["publickey"] == keys[job["userid"]]
        verify(keys[job["userid"]], reply["signature"], job["message"].encode())
    with pytest.raises(InvalidSignature):
        verify(keys[users[0]], replies["s-0"]["signature"], b"another message")


def test_a_generate_job_delivered_twice_leaves_one_key(client: Client) -> None:
    """Both deliveries get the same answer; another job finds the key of the first, and its record as it was."""
    job = {"type": "generate", "job_id": "twice", "userid": "twice"}
    client.send("generate", job, job)
    first, second = client.replies(2, job_id="twice")
    assert first == second
    assert first["created"] is True
    before = client.dynamodb.get_item(TableName=client.facts["table"], Key={"userid": {"S": "twice"}})["Item"]
    later = client.ask("generate", {**job, "job_id": "later"})
    assert (later["publickey"], later["created"]) == (first["publickey"], False)
    assert before == client.dynamodb.get_item(TableName=client.facts["table"], Key={"userid": {"S": "twice"}})["Item"]


BAD_BODIES: list[tuple[str, str | dict[str, Any], str, str]] = [
    ("sign", "no JSON", "bad_request", "not JSON"),
    ("sign", "[1]", "bad_request", "not a JSON object"),
    ("sign", '{"type": "sign", "type": "sign"}', "bad_request", "twice"),
    ("sign", '{"type": "sign", "userid": "u", "message": "\\ud800"}', "bad_request", "surrogate"),
    ("sign", {"type": "sign", "userid": "u", "message": "m", "extra": 1}, "bad_request", "extra"),
    ("sign", {"type": "sign", "userid": "u"}, "bad_request", "message"),
    ("sign", {"type": "sign", "userid": "u", "message": 7}, "bad_request", "message"),
    ("sign", {"type": "sign", "userid": "a b", "message": "m"}, "bad_request", "userid"),
    ("sign", {"type": "sign", "userid": "u" * 129, "message": "m"}, "bad_request", "userid"),
    ("sign", {"type": "sign", "userid": "u", "message": "m" * (64 * 1024 + 1)}, "bad_request", "message"),
    ("sign", {"type": "transfer", "userid": "u"}, "bad_request", "type"),
    ("sign", {"type": "generate", "userid": "u"}, "wrong_queue", "queue"),
    ("generate", {"type": "sign", "userid": "u", "message": "m"}, "wrong_queue", "queue"),
    ("sign", {"type": "sign", "userid": "nobody", "message": "m"}, "unknown_user", "user"),
    ("sign", {"type": "sign", "userid": "u", "message": "m", "authorization": "x"}, "bad_request", "authorization"),
]


@pytest.mark.parametrize(("queue", "body", "code", "named"), BAD_BODIES)
def test_bad_input_is_answered_with_a_code_that_names_what_is_wrong(
    client: Client, queue: str, body: str | dict[str, Any], code: str, named: str
) -> None:
    """Never a crash, never a silent drop: an error reply to the message id, and a copy with the reason on the side."""
    [message_id] = client.send(queue, body)
    [reply] = client.replies(1, job_id=message_id)
    assert (reply["status"], reply["job_id"], reply["error"]["code"]) == ("error", message_id, code)
    assert named in reply["error"]["message"]
    assert code in client.dead_letter(queue, message_id).values()
