"""The way to KMS, byte by byte: whom the enclave believes, and what it takes from whom it believes.

Each test has a server of its own behind the proxy's socket, with a certificate and an answer that KMS would not have.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config.enclave import EnclaveConfig, MeasuredConfig
from enclave import kms as kms_module
from enclave.credentials import CredentialStore
from enclave.http_session import MAX_ANSWER_BYTES
from enclave.kms import open_kms
from enclave.proxy_socket import ProxySocket
from enclave.recipient import Recipient
from local.kms.envelope import EnvelopeRecipient
from local.measured_configs import MeasuredConfigInputs, write_toml
from local.tls import LocalTls
from protocol.address import UnixAddress
from protocol.clock import system_clock
from protocol.errors import SignerError
from protocol.messages import Role, SetCredentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from enclave.recipient import RecipientSource

KEY_ARN = "arn:aws:kms:us-east-1:000000000000:key/1234"
KMS_HOST = "kms.us-east-1.localhost"
RECIPIENT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SPKI = RECIPIENT_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
DAY_S = 86_400


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return an HTTP answer."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/x-amz-json-1.1", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def opened(**changes: object) -> bytes:
    """Return a good answer to Decrypt, but for some fields; None leaves one out."""
    sealed = base64.b64encode(EnvelopeRecipient.from_spki(SPKI).seal(bytes(range(32)))).decode()
    fields = {"KeyId": KEY_ARN, "CiphertextForRecipient": sealed} | changes
    return answer(json.dumps({name: value for name, value in fields.items() if value is not None}).encode())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again without waiting."""
    monkeypatch.setattr(kms_module, "wait_random_exponential", lambda **_: lambda _: 0)


@dataclass
class Server:
    """Who listens where KMS should be: keeps what it was asked, and says `answers`, one a connection, then the last."""

    context: ssl.SSLContext | None
    answers: list[bytes]
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    sent_bytes: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        said = self.answers[min(self.connections, len(self.answers) - 1)]
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self.context is None:
                self.asked.append(await reader.readexactly(1))
            else:
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            for start in range(0, len(said), 1 << 16):
                writer.write(said[start : start + (1 << 16)])
                await writer.drain()
                self.sent_bytes = start + (1 << 16)
        writer.close()


class _OneRecipient:
    async def current(self) -> Recipient:
        return Recipient(b"a document", RECIPIENT_KEY)


def measured(folder: Path, authorities: LocalTls) -> EnclaveConfig:
    """Return the configuration of a signer that believes these authorities."""
    inputs = MeasuredConfigInputs(kms_key_arn=KEY_ARN, kms_ca_pem=authorities.ca_bundle.read_text())
    listen, proxy = UnixAddress(str(folder / "signer")), UnixAddress(str(folder / "proxy"))
    text = write_toml(inputs, Role.SIGNER, listen=listen, kms_proxy=proxy)
    config = MeasuredConfig.parse(text.encode()).config
    return config.model_copy(update={"kms_host": KMS_HOST})


async def decrypt(config: EnclaveConfig) -> bytearray:
    """Ask KMS as an enclave does."""
    store = CredentialStore(system_clock)
    store.replace(
        SetCredentials(access_key_id="AKID", secret_access_key="S" * 40, session_token=None, expires_at_s=None)
    )
    async with open_kms(config, store, cast("RecipientSource", _OneRecipient())) as kms:
        return await kms.decrypt(b"blob", {"userid": "u"})


@contextlib.asynccontextmanager
async def serving(config: EnclaveConfig, server: Server) -> AsyncIterator[None]:
    """Listen where the enclave's connections arrive."""
    path = cast("UnixAddress", config.kms_proxy).path
    async with await asyncio.start_unix_server(server.serve, path, ssl=server.context):
        yield


async def code_of(config: EnclaveConfig, server: Server) -> str:
    """Return the error that a call ends in."""
    async with serving(config, server):
        with pytest.raises(SignerError) as refused:
            await decrypt(config)
    return refused.value.code


def tls_at(folder: Path, *names: str, now_s: float | None = None) -> LocalTls:
    """Return certificates for these host names."""
    return LocalTls.in_folder(folder, names, now_s=now_s or system_clock())


async def test_kms_is_believed(tmp_path: Path) -> None:
    """The tests below change one thing in something that works."""
    tls = tls_at(tmp_path, KMS_HOST)
    server = Server(tls.server_context(), [opened()])
    config = measured(tmp_path, tls)
    async with serving(config, server):
        assert await decrypt(config) == bytearray(range(32))
    assert f"host: {KMS_HOST}".encode() in server.asked[0].lower()


async def test_a_certificate_for_another_host(tmp_path: Path) -> None:
    """The measured authorities certify whole clouds: everybody can have a certificate of theirs, for another name."""
    tls = tls_at(tmp_path, "somebody.us-east-1.localhost", "localhost")
    server = Server(tls.server_context(), [opened()])
    assert await code_of(measured(tmp_path, tls), server) == "kms_unavailable"
    assert server.asked == []


async def test_a_certificate_whose_time_is_over(tmp_path: Path) -> None:
    """Its key may have leaked since."""
    tls = tls_at(tmp_path, KMS_HOST, now_s=system_clock() - 398 * DAY_S)
    server = Server(tls.server_context(), [opened()])
    assert await code_of(measured(tmp_path, tls), server) == "kms_unavailable"
    assert server.asked == []


async def test_a_certificate_of_another_authority(tmp_path: Path) -> None:
    """The right name under an authority that was not measured."""
    server = Server(tls_at(tmp_path / "theirs", KMS_HOST).server_context(), [opened()])
    assert await code_of(measured(tmp_path, tls_at(tmp_path / "ours", KMS_HOST)), server) == "kms_unavailable"
    assert server.asked == []


async def test_no_tls(tmp_path: Path) -> None:
    """Who answers in clear text has been asked for a TLS handshake, and nothing else."""
    server = Server(None, [opened()])
    assert await code_of(measured(tmp_path, tls_at(tmp_path, KMS_HOST)), server) == "kms_unavailable"
    assert set(server.asked) == {b"\x16"}  # ContentType handshake, RFC 8446 section 5.1


async def test_an_old_version_of_tls(tmp_path: Path) -> None:
    """TLS 1.2 is the least."""
    tls = tls_at(tmp_path, KMS_HOST)
    context = tls.server_context()
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    server = Server(context, [opened()])
    assert await code_of(measured(tmp_path, tls), server) == "kms_unavailable"
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "place"),
    [
        ("301 Moved Permanently", f"https://{KMS_HOST}/again"),
        ("302 Found", "http://192.0.2.1/"),
        ("307 Temporary Redirect", f"http://{KMS_HOST}/"),
    ],
)
async def test_a_redirect_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, place: str
) -> None:
    """It could lead the next request out of TLS: to the proxy, in clear text."""
    opened_sockets: list[ProxySocket] = []
    connect = ProxySocket.connect

    def counted(self: ProxySocket, address: object) -> None:
        opened_sockets.append(self)
        connect(self, address)

    monkeypatch.setattr(ProxySocket, "connect", counted)
    tls = tls_at(tmp_path, KMS_HOST)
    server = Server(tls.server_context(), [answer(b"", status, f"Location: {place}"), opened()])
    config = measured(tmp_path, tls)
    async with serving(config, server):
        assert await decrypt(config) == bytearray(range(32))  # the second try, by our own rule
    assert [request.split()[:2] for request in server.asked] == [[b"POST", b"/"]] * 2
    assert len(opened_sockets) == 2


async def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    """Nothing that comes from outside is kept without a bound, not even from KMS."""
    tls = tls_at(tmp_path, KMS_HOST)
    size = 64 << 20
    server = Server(tls.server_context(), [answer(bytes(size))])
    assert await code_of(measured(tmp_path, tls), server) == "kms_unavailable"
    assert 0 < server.sent_bytes < size // 4


async def test_the_longest_answer_is_read(tmp_path: Path) -> None:
    """To the last byte of the bound, in chunks as well."""
    tls = tls_at(tmp_path, KMS_HOST)
    body = opened().split(b"\r\n\r\n")[1].ljust(MAX_ANSWER_BYTES)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = Server(tls.server_context(), [answer(body), head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)])
    config = measured(tmp_path, tls)
    async with serving(config, server):
        assert await decrypt(config) == await decrypt(config) == bytearray(range(32))
    assert server.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(answer(b""), id="nothing"),
        pytest.param(answer(b"<html>"), id="no JSON"),
        pytest.param(answer(b"[1]"), id="a list"),
        pytest.param(answer(b'"text"'), id="a text"),
        pytest.param(answer(b"\xff\xfe"), id="no text"),
        pytest.param(answer(b"[" * 60_000), id="deep"),
        pytest.param(opened(CiphertextForRecipient="%%%"), id="no base64"),
        pytest.param(opened(CiphertextForRecipient=5), id="a number"),
        pytest.param(opened(CiphertextForRecipient={"a": 1}), id="a map"),
        pytest.param(opened(CiphertextForRecipient=None), id="plain"),
    ],
)
async def test_an_answer_that_cannot_be_read(tmp_path: Path, said: bytes) -> None:
    """Each is `kms_bad_answer`, and none a bug of ours."""
    tls = tls_at(tmp_path, KMS_HOST)
    assert await code_of(measured(tmp_path, tls), Server(tls.server_context(), [said])) == "kms_bad_answer"
