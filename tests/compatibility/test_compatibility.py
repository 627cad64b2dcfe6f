"""What earlier versions wrote is read today as it was meant: jobs, replies, frames, stored keys, certificates."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from enclave.keypair import KeyPair
from enclave.sealing import open_sealed
from protocol.attestation import TrustRoot
from protocol.birth import BirthCertificate
from protocol.birth_verification import verify_birth
from protocol.forms import digest_of
from protocol.jobs import REPLY, JobRefusedError, parse_job
from protocol.keyrecord import KeyRecord, sealed_record_sha256
from protocol.messages import REQUESTS, RESULTS, Digest, Hello, HelloResult, Scheme, SignatureFormat
from protocol.schema import make_schema
from protocol.session import Answered, ClientSession, Received, ServerSession
from protocol.version import VERSION
from tests.compatibility.corpus import PARTS, load, save, versions, written


def entries(part: str) -> list[Any]:
    """Return the entries of all versions, as parameters."""
    return [
        pytest.param(entry, id=f"{version}-{part}-{number}")
        for version in versions()
        for number, entry in enumerate(load(version, part))
    ]


def test_this_version_is_kept() -> None:
    """A version is released together with its corpus, which is whole and never changed."""
    assert VERSION in versions(), "run: python -m tests.compatibility"
    for version in versions():
        assert all(load(version, part) for part in PARTS)
    with pytest.raises(FileExistsError):
        save(VERSION, "jobs", [])


@pytest.mark.parametrize("entry", entries("jobs"))
def test_a_job_means_what_it_meant(entry: dict[str, Any]) -> None:
    """A field that a later version adds has a default; nothing that was there has changed."""
    try:
        means = parse_job(entry["body"], entry["message_id"]).model_dump(mode="json")
    except JobRefusedError as refused:
        means = {"refused": refused.error.code.value}
    assert has(means, entry["means"])


def has(value: Any, kept: Any) -> bool:
    """Whether a value has everything that was kept, and perhaps more fields."""
    if isinstance(kept, dict):
        return isinstance(value, dict) and all(name in value and has(value[name], kept[name]) for name in kept)
    if isinstance(kept, list):
        return len(value) == len(kept) and all(has(*pair) for pair in zip(value, kept, strict=True))
    return bool(value == kept)


@pytest.mark.parametrize("entry", entries("jobs"))
def test_a_job_that_was_valid_is_valid_by_the_schema(entry: dict[str, Any]) -> None:
    """Senders that validate with the published schema of today may send what they sent."""
    if "refused" not in entry["means"] and entry["means"]["type"] != "sign_batch":
        jsonschema.Draft202012Validator(make_schema("job")).validate(json.loads(entry["body"]))


@pytest.mark.parametrize("entry", entries("replies"))
def test_a_reply_reads_as_it_did(entry: dict[str, Any]) -> None:
    """Replies that wait on a queue during an upgrade are understood."""
    assert has(json.loads(REPLY.validate_json(entry["body"]).model_dump_json()), json.loads(entry["body"]))


@pytest.mark.parametrize("version", versions())
def test_an_enclave_understands_the_frames_of_a_parent(version: str) -> None:
    """Each request of that version arrives as the value that it was."""
    session = ServerSession()
    for kept in load(version, "requests"):
        (event,) = session.receive_data(kept["frame"])
        assert isinstance(event, Received)
        assert event.request == REQUESTS[kept["type"]].model_validate(kept["body"])


@pytest.mark.parametrize("version", versions())
def test_a_parent_understands_the_frames_of_an_enclave(version: str) -> None:
    """Each result of that version is taken as the answer to its request; its writer would write the same bytes."""
    client, server = ClientSession(), ServerSession()
    for kept, answer in zip(load(version, "requests"), load(version, "results"), strict=True):
        request = REQUESTS[kept["type"]].model_validate(kept["body"])
        number, frame = client.start(request) if isinstance(request, Hello) else client.send(request)
        assert frame == kept["frame"], "the same version of the protocol, so the same bytes"
        list(server.receive_data(frame))
        (event,) = client.receive_data(answer["frame"])
        expected = RESULTS[type(request)].model_validate(answer["body"])
        assert event == Answered(number, expected)
        assert server.answer(number, expected) == answer["frame"]
        assert isinstance(expected, HelloResult) == isinstance(request, Hello)


@pytest.mark.parametrize("kept", entries("keys"))
def test_a_stored_key_is_opened_and_its_birth_verified(kept: dict[str, Any]) -> None:
    """A record of that version opens to the same private key, and its certificate still proves where it was born."""
    record = KeyRecord.from_item(kept["item"])
    sealed = record.record
    assert open_sealed(sealed.sealed_key, kept["data_key"], sealed.statement) == kept["private_key"]
    assert KeyPair(kept["private_key"]).public_key == record.public_key
    certificate = BirthCertificate.from_base64(kept["birth_certificate"])
    born = verify_birth(
        certificate,
        root=TrustRoot.from_pem(kept["root_pem"].encode()),
        pcr0=(kept["pcr0"],),
        userid=record.userid,
        public_key=record.public_key,
    )
    assert certificate.sealed_sha256 == sealed_record_sha256(sealed)
    assert born.statement.userid == record.userid


@pytest.mark.parametrize("kept", entries("signatures"))
def test_the_same_job_has_the_same_signature(kept: dict[str, Any]) -> None:
    """Across versions, too: a job that is delivered again after an upgrade is answered with the same bytes."""
    (entry,) = load(versions()[0], "keys")
    digest = digest_of(kept["message"], Digest(kept["digest"]))
    form = Scheme(kept["scheme"]), SignatureFormat(kept["format"])
    assert KeyPair(entry["private_key"]).sign(digest, *form) == kept["signature"]


def test_the_corpus_keeps_bytes() -> None:
    """Bytes survive the way through JSON."""
    assert written({"a": [b"\x01", 1, "x"]}) == {"a": [{"hex": "01"}, 1, "x"]}
