"""How fast is the vsock-proxy? Direct, through ours, and through socat as a plain forwarder, side by side.

    python -m benchmarks.proxy                the table on standard output
    python -m benchmarks.proxy --write        and into docs/benchmarks.md

The server, the forwarder and the client are processes of their own; the CPU time is the forwarder's, as the kernel
counts it. The forwarders listen on Unix sockets. A workload is any `Workload`: it gets a `Route` and says how long each
of its exchanges took, so that other protocols (an attested KMS call) are compared by the same harness.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.document import DOCUMENT, write_section
from benchmarks.machine import cpu_seconds, memory_bytes
from benchmarks.proxy_decrypt import attested_decrypts, start_kms
from benchmarks.proxy_upstream import EchoPorts, delayed_request, start_upstream

_HEADING = "## vsock-proxy"
_COMMAND = """
import structlog, typer
from workers.cli.vsock_proxy import vsock_proxy
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("info"))  # as in production
typer.run(vsock_proxy)
"""

_REQUEST_BYTES = 6 * 1024  # about an attested Decrypt: a 4.5 KB document in Base64
_LATENCY_ROWS = (
    ("kept alive, the server takes 10 ms", False, 10, 1500),
    ("kept alive, the server answers at once", False, 0, 1500),
    ("a connection each, at once", True, 0, 300),
)
_DECRYPTS = 120


@dataclass(frozen=True, slots=True)
class Route:
    """One way to the server: a Unix socket of a forwarder, or the server's own TCP port when `path` is None."""

    name: str
    path: str | None
    port: int
    pid: int | None

    def connect(self) -> socket.socket:
        """Return a blocking connection to the server along this route."""
        if self.path is None:
            return socket.create_connection(("127.0.0.1", self.port))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(self.path)
        return sock

    async def open(self, tls: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a TLS connection to the server along this route."""
        if self.path is None:
            return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname="localhost")
        return await asyncio.open_unix_connection(self.path, ssl=tls, server_hostname="localhost")


Workload = Callable[[Route, int], Awaitable[list[float]]]
"""Does its exchanges over a route at a concurrency; returns the seconds that each took."""


def tls_exchanges(tls: ssl.SSLContext, exchanges: int, *, fresh: bool, server_ms: int) -> Workload:
    """Return a workload of echoed requests: each on a fresh TLS connection, or all of a client on one kept alive.

    `server_ms` is how long the server waits with its answer; 0 makes all processes compete for the cores.
    """
    request = delayed_request(server_ms, _REQUEST_BYTES)

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request)
        await reader.readexactly(len(request))

    async def client(route: Route, count: int, everybody: asyncio.Barrier, took: list[float]) -> None:
        kept = None if fresh else await route.open(tls)
        await everybody.wait()
        for _ in range(count):
            began = time.perf_counter()
            reader, writer = kept or await route.open(tls)
            await exchange(reader, writer)
            took.append(time.perf_counter() - began)
            if kept is None:
                writer.transport.abort()
        if kept is not None:
            kept[1].transport.abort()

    async def work(route: Route, concurrency: int) -> list[float]:
        took: list[float] = []
        everybody = asyncio.Barrier(concurrency)
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(client(route, max(1, exchanges // concurrency), everybody, took))
        return took

    return work


def stream_mb_per_cpu_second(route: Route, port_bytes: int) -> float:
    """Download so many bytes over four connections one after another; MB for each CPU-second of the forwarder."""
    assert route.pid is not None
    before = cpu_seconds(route.pid)
    buffer = bytearray(1024 * 1024)
    for _ in range(4):
        with route.connect() as sock:
            sock.sendall(port_bytes.to_bytes(8, "big"))
            left = port_bytes
            while left:
                left -= sock.recv_into(buffer)
    return 4 * port_bytes / 1e6 / (cpu_seconds(route.pid) - before)


def connections_per_cpu_second(route: Route, count: int) -> float:
    """Open, get one byte, close, so many times; connections for each CPU-second of the forwarder."""
    assert route.pid is not None
    before = cpu_seconds(route.pid)
    for _ in range(count):
        with route.connect() as sock:
            sock.sendall((1).to_bytes(8, "big"))
            assert sock.recv(10) == b"\0"
    return count / (cpu_seconds(route.pid) - before)


def kib_per_idle_connection(route: Route, count: int) -> float:
    """Hold so many connections open after one exchange on each; KiB of the forwarder for each."""
    assert route.pid is not None
    with contextlib.ExitStack() as stack:
        warm = [stack.enter_context(route.connect()) for _ in range(20)]
        _exchange_on_each(warm)
        before = memory_bytes(route.pid)
        idle = [stack.enter_context(route.connect()) for _ in range(count)]
        _exchange_on_each(idle)
        return (memory_bytes(route.pid) - before) / 1024 / count


def _exchange_on_each(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.sendall((1).to_bytes(8, "big"))
        assert connection.recv(10) == b"\0"


@contextlib.contextmanager
def forwarder(name: str, folder: Path, port: int) -> Generator[Route]:
    """Run `ours` or `socat` as a child process in front of a TCP port; yields its route."""
    path = folder / f"{name}-{port}.sock"
    if name == "socat":
        arguments = ["socat", f"UNIX-LISTEN:{path},fork,backlog=1024", f"TCP:127.0.0.1:{port},nodelay"]
    else:
        config = folder / f"{port}.yaml"
        config.write_text(f"allowlist: [{{address: 127.0.0.1, port: {port}}}]\nlimits: {{drain_idle_s: 0.01}}\n")
        ours = ["--config", str(config), "--listen", f"unix://{path}", "127.0.0.1", str(port)]
        arguments = [sys.executable, "-c", _COMMAND, *ours]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                break
            assert process.poll() is None, f"{name} has ended"
            time.sleep(0.05)
        yield Route(name, str(path), port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def routes(names: list[str], folder: Path, port: int) -> Generator[list[Route]]:
    """Run each forwarder in front of one port; yields the direct route first."""
    with contextlib.ExitStack() as stack:
        forwarders = [stack.enter_context(forwarder(name, folder, port)) for name in names]
        yield [Route("direct", None, port, None), *forwarders]


async def compare_latency(
    workload: Workload, ways: list[Route], concurrency: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """Run the workload over each route in turn, several rounds; return the medians of p50 and p99 in milliseconds."""
    seen: dict[str, list[tuple[float, float]]] = {route.name: [] for route in ways}
    for _ in range(rounds):
        for route in ways:
            took = sorted(await workload(route, concurrency))
            p50, p99 = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
            seen[route.name].append((p50 * 1000, p99 * 1000))
    return {
        name: (statistics.median(p50 for p50, _ in pairs), statistics.median(p99 for _, p99 in pairs))
        for name, pairs in seen.items()
    }


def decrypt_rows(names: list[str], folder: Path, *, scale: int) -> list[str]:
    """Measure attested Decrypts at the stand-in KMS over each route; return rows of the table of latencies."""
    rows: list[str] = []
    with start_kms(folder) as kms, routes(names, folder, kms.port) as ways:
        for concurrency in (30, 200):
            calls = max(concurrency, _DECRYPTS * scale // 2)

            async def work(route: Route, together: int, calls: int = calls) -> list[float]:
                return await attested_decrypts(kms, route.path, together, calls)

            result = asyncio.run(compare_latency(work, ways, concurrency, 5))
            cells = " | ".join(f"{p50:.1f} / {p99:.1f}" for p50, p99 in result.values())
            rows.append(f"| attested Decrypt at the stand-in KMS | {concurrency} | {cells} |")
    return rows


def measure(ports: EchoPorts, folder: Path, *, scale: int) -> str:
    """Measure everything and return it as Markdown; `scale` 1 takes a few seconds, 10 about two minutes."""
    names = ["ours", *(["socat"] if shutil.which("socat") else [])]
    machine = f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores"
    load = f"load average {os.getloadavg()[0]:.1f} before the start"
    place = "client, forwarder and server on the same machine, forwarders on Unix sockets"
    titles = " | ".join(f"{name} p50 / p99 ms" for name in ["direct", *names])
    lines = [
        f"{_HEADING}\n",
        f"`python -m benchmarks.proxy`: {machine}; {load}; {place}. Latencies: median of 5 rounds.\n",
        f"| TLS, 6 KiB request and answer | concurrent | {titles} |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    with routes(names, folder, ports.tls) as ways:
        tls = ssl.create_default_context(cafile=str(ports.certificate))
        for label, fresh, server_ms, exchanges in _LATENCY_ROWS:
            for concurrency in (30, 200):
                count = max(concurrency, exchanges * scale // 2)
                workload = tls_exchanges(tls, count, fresh=fresh, server_ms=server_ms)
                result = asyncio.run(compare_latency(workload, ways, concurrency, 5))
                cells = " | ".join(f"{p50:.1f} / {p99:.1f}" for p50, p99 in result.values())
                lines.append(f"| {label} | {concurrency} | {cells} |")
    lines += decrypt_rows(names, folder, scale=scale)
    lines += ["", "| forwarder alone | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    with routes(names, folder, ports.bulk) as (_, *forwarders):
        # memory first: later figures would leave free memory behind, which idle connections then use
        rows: dict[str, Callable[[Route], float]] = {
            "KiB per idle connection": lambda route: kib_per_idle_connection(route, 50 * scale),
            "streaming, MB per CPU-second": lambda route: stream_mb_per_cpu_second(route, 100_000_000 * scale),
            "connections per CPU-second": lambda route: connections_per_cpu_second(route, 500 * scale),
        }
        for label, figure in rows.items():
            lines.append(f"| {label} | " + " | ".join(f"{figure(route):,.0f}" for route in forwarders) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write on request."""
    parser = argparse.ArgumentParser(description="Compare the vsock-proxy with a direct connection and with socat.")
    parser.add_argument("--scale", type=int, default=10, help="amount of work (1: a quick look)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_upstream(Path(folder)) as ports:
        section = measure(ports, Path(folder), scale=options.scale)
    print(section)
    if options.write:
        write_section(DOCUMENT, section)


if __name__ == "__main__":
    main()
