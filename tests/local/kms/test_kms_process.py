"""The stand-in KMS as a process, its faults, and its certificates."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError, SSLError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from local.files import write_private
from local.kms import AttestingKms, KmsSettings
from local.tls import LocalTls
from protocol.clock import system_clock
from tests.local.kms.rig import GENERATOR, Rig

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("localhost", "127.0.0.1")
DAY_S = 86_400


async def test_the_program_says_where_it_is_and_ends_with_exit_code_0(rig: Rig, tmp_path: Path) -> None:
    """One ready line, audit lines in the file, SIGTERM ends it in order; a second start has the same state."""
    root = tmp_path / "root.pem"
    root.write_bytes(rig.authority.certificate_pem)
    audit = tmp_path / "audit.jsonl"
    command = [sys.executable, "-m", "local.kms", "--state", str(rig.state), "--nitro-root", str(root)]
    for options in (["--audit-file", str(audit)], []):
        process = await asyncio.create_subprocess_exec(*command, *options, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            ready = json.loads(await process.stdout.readline())
            assert (ready["pid"], ready["region"]) == (process.pid, "us-east-1")
            async with rig_client(rig, ready) as kms:
                await kms.generate_random(NumberOfBytes=8, Recipient=rig.recipient(GENERATOR))
            process.send_signal(signal.SIGTERM)
            rest = await process.stdout.read()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        lines = audit.read_bytes() if options else rest
        assert [json.loads(line)["eventName"] for line in lines.splitlines()] == ["GenerateRandom"]


def rig_client(rig: Rig, ready: dict[str, Any]) -> Any:
    """Return a client of the program instead of the rig's own server."""

    class _There:
        endpoint_url = ready["endpoint_url"]
        ca_bundle = ready["ca_bundle"]

    rig.kms = _There()  # type: ignore[assignment]  # the two facts that a client needs
    return rig.client(rig.access.generator)


async def outcomes(rig: Rig, count: int) -> list[str]:
    """Return how each of some calls ended."""
    found: list[str] = []
    async with rig.client() as kms:
        for _ in range(count):
            try:
                await kms.generate_random(NumberOfBytes=1)
                found.append("ok")
            except ClientError as error:
                found.append(
                    f"{error.response['Error']['Code']} {error.response['ResponseMetadata']['HTTPStatusCode']}"
                )
            except HTTPClientError:
                found.append("dropped")
    return found


async def test_faults_come_as_asked_and_repeat_with_their_seed(rig: Rig) -> None:
    """Throttling is HTTP 400 as with KMS, a refusal has its code, a drop resets; the same seed, the same sequence."""
    runs: list[list[str]] = []
    for seed in (1, 1, 2):
        async with rig.faulty(drop_rate=0.2, throttle_rate=0.2, refuse_rate=0.2, seed=seed):
            runs.append(await outcomes(rig, 30))
    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {"ok", "dropped", "ThrottlingException 400", "KMSInternalException 500"}


async def test_a_delay_holds_every_call(rig: Rig) -> None:
    """A call of a client that waits less than the delay runs into its time-out."""
    async with rig.faulty(delay_s=30), rig.client() as kms:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await kms.generate_random(NumberOfBytes=1)


async def test_a_client_without_the_ca_does_not_connect(running: Rig) -> None:
    """The certificate is of the local CA only."""
    async with running.client(verify=True) as kms:
        with pytest.raises(SSLError):
            await kms.generate_random(NumberOfBytes=1)


async def test_the_certificate_passes_strict_verification(running: Rig) -> None:
    """For each of its names, with OpenSSL's strict rules on."""
    context = ssl.create_default_context(cafile=running.kms.ca_bundle)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in ("localhost", "127.0.0.1", "::1", "kms.us-east-1.localhost"):
        _, writer = await asyncio.open_connection("127.0.0.1", running.kms.port, ssl=context, server_hostname=name)
        writer.close()
        await writer.wait_closed()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", running.kms.port, ssl=context, server_hostname="kms.example")


def server_certificate(state: Path) -> x509.Certificate:
    """Return the server certificate of a state folder."""
    return x509.load_pem_x509_certificates((state / "tls" / "server.pem").read_bytes())[0]


def test_the_server_certificate_is_renewed_in_time_and_the_ca_is_not(tmp_path: Path) -> None:
    """Near its end or for other names there is a new one, under the same CA."""
    now_s = system_clock()
    ca = LocalTls.in_folder(tmp_path, NAMES, now_s=now_s).ca_bundle.read_bytes()
    first = server_certificate(tmp_path)
    LocalTls.in_folder(tmp_path, NAMES, now_s=now_s + 360 * DAY_S)
    assert first == server_certificate(tmp_path)
    LocalTls.in_folder(tmp_path, NAMES, now_s=now_s + 370 * DAY_S)
    second = server_certificate(tmp_path)
    assert second.not_valid_after_utc - first.not_valid_after_utc == dt.timedelta(days=370)
    LocalTls.in_folder(tmp_path, (*NAMES, "other.localhost"), now_s=now_s + 370 * DAY_S)
    assert second != server_certificate(tmp_path)
    assert ca == (tmp_path / "tls" / "ca.pem").read_bytes()


def test_a_ca_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The folder was tampered with: no certificate is made."""
    LocalTls.in_folder(tmp_path, NAMES, now_s=system_clock())
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "tls" / "ca.key").write_bytes(pem)
    with pytest.raises(TypeError, match="not an EC key"):
        LocalTls.in_folder(tmp_path, ("other",), now_s=system_clock())


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    """What cannot be put in place changes nothing."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_private(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_server_needs_a_root_of_documents(tmp_path: Path) -> None:
    """Without one nobody's documents could be verified."""
    with pytest.raises(ValueError, match="at least one root"):
        KmsSettings(state_dir=tmp_path, nitro_roots=[])


def test_a_server_that_does_not_run_has_no_port(rig: Rig) -> None:
    """The port is known once it listens."""
    settings = KmsSettings(state_dir=rig.state, nitro_roots=[rig.authority.trust_root])
    kms = AttestingKms(settings, clock=system_clock, write_audit=rig.audit.append)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = kms.port
