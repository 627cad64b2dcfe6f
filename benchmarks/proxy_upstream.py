"""The server behind the forwarders: a TLS echo, and a plain port that sends as many bytes as it is asked for."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import multiprocessing
import socket
import ssl
import threading
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_BLOCK = bytes(1024 * 1024)


@dataclass(frozen=True, slots=True)
class EchoPorts:
    """Where the server listens on loopback, and the certificate that its TLS port shows."""

    tls: int
    bulk: int
    certificate: Path


def delayed_request(server_ms: int, size: int) -> bytes:
    """Return a request that the echo keeps for so many milliseconds (0 to 255) before it answers."""
    return bytes([server_ms]) + bytes(size - 1)


@contextlib.contextmanager
def start_upstream(folder: Path) -> Generator[EchoPorts]:
    """Run the server in a process of its own."""
    certificate, key = _make_certificate(folder)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(theirs, str(certificate), str(key)), daemon=True)
    process.start()
    try:
        tls, bulk = ours.recv()
        yield EchoPorts(tls, bulk, certificate)
    finally:
        process.terminate()
        process.join()


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(minutes=5))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = folder / "certificate.pem"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return certificate, private


def _serve(ready: Connection, certificate: str, key: str) -> None:
    asyncio.run(_serve_both(ready, certificate, key))


async def _serve_both(ready: Connection, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    bulk = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=_serve_bulk, args=(bulk,), daemon=True).start()
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=context, backlog=1024)
    ready.send((server.sockets[0].getsockname()[1], bulk.getsockname()[1]))
    await server.serve_forever()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            if data[0]:  # the first part of a delayed request; the others begin with 0
                await asyncio.sleep(data[0] / 1000)
            writer.write(data)
            await writer.drain()
    writer.close()


def _serve_bulk(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_send_what_is_asked, args=(connection,), daemon=True).start()


def _send_what_is_asked(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while asked := connection.recv(8, socket.MSG_WAITALL):
            left = int.from_bytes(asked, "big")
            while left:
                left -= connection.send(memoryview(_BLOCK)[:left])
