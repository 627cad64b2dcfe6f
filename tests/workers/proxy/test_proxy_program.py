"""The process: command line, several destinations, reports, signals and exit codes."""

import asyncio
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from protocol.address import UnixAddress, parse_address
from protocol.transport import connect, listen
from workers.cli.vsock_proxy import settings_of_command
from workers.proxy.program import ListenError, enough_descriptors, run_proxy
from workers.proxy.resolver import AddressInfo, Lookup
from workers.proxy.settings import ConfigError, ProxySettings, parse_settings
from workers.service.sdnotify import Notifier

Handler = Callable[[socket.socket], Awaitable[None]]
ServeUpstream = Callable[[Handler], AbstractAsyncContextManager[AddressInfo]]

_COMMAND = "import typer; from workers.cli.vsock_proxy import vsock_proxy; typer.run(vsock_proxy)"


async def _echo(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(connection, 4096):
        await loop.sock_sendall(connection, data)


async def _ask(path: Path) -> bytes:
    loop = asyncio.get_running_loop()
    with await connect(UnixAddress(str(path)), timeout_s=5) as client:
        await loop.sock_sendall(client, b"ping")
        return await loop.sock_recv(client, 100)


@pytest.fixture
def allow_list(tmp_path: Path) -> Path:
    """A file as AWS's package ships it."""
    path = tmp_path / "vsock-proxy.yaml"
    path.write_text("allowlist:\n- {address: kms.test, port: 443}\n")
    return path


def _command(
    *target: str,
    config: Path,
    ipv4: bool = False,
    ipv6: bool = False,
    max_connections: int | None = None,
    listen: str | None = None,
) -> ProxySettings:
    return settings_of_command(
        list(target), config=config, ipv4=ipv4, ipv6=ipv6, max_connections=max_connections, listen=listen
    )


def test_the_command_line_of_awss_proxy_is_taken(allow_list: Path) -> None:
    """LOCAL_PORT REMOTE_HOST REMOTE_PORT, -4 and -w mean what they mean there."""
    settings = _command("8000", "kms.test", "443", config=allow_list, ipv4=True, max_connections=20)
    (destination,) = settings.destinations
    assert (str(destination.address), destination.name) == ("vsock://any:8000", "kms.test:443")
    assert (destination.ip_version, settings.limits.max_connections) == (4, 20)


def test_listen_stands_for_the_local_port(allow_list: Path) -> None:
    """With --listen the first argument is the remote host."""
    settings = _command("kms.test", "443", config=allow_list, listen="unix:///run/kms.sock", ipv6=True)
    (destination,) = settings.destinations
    assert (destination.address, destination.ip_version) == (parse_address("unix:///run/kms.sock"), 6)


def test_without_arguments_the_file_names_the_destinations(tmp_path: Path) -> None:
    """Several destinations come from one file."""
    path = tmp_path / "several.yaml"
    path.write_text(
        "allowlist: []\ndestinations:\n"
        "- {listen: 'vsock://any:8000', host: a.test, port: 443, peer_cids: [16]}\n"
        "- {listen: 'unix:///b', host: b.test, port: 8443}\n"
    )
    assert [destination.name for destination in _command(config=path).destinations] == ["a.test:443", "b.test:8443"]


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        (("8000", "kms.test"), {}, "give LOCAL_PORT REMOTE_HOST REMOTE_PORT"),
        (("8000", "kms.test", "443", "1"), {}, "give LOCAL_PORT REMOTE_HOST REMOTE_PORT"),
        (("x", "kms.test", "443"), {}, "LOCAL_PORT: a port number"),
        (("0", "kms.test", "443"), {}, "listen: "),
        (("8000", "kms.test", "x"), {}, "REMOTE_PORT: a port number"),
        (("8000", "kms.test", "65536"), {}, "port: "),
        (("8000", "kms test", "443"), {}, "host: "),
        (("8000", "kms.test", "443"), {"listen": "unix:///a"}, "with --listen, give REMOTE_HOST REMOTE_PORT"),
        (("kms.test", "443"), {"listen": "tcp://a"}, "listen: "),
        (("8000", "kms.test", "443"), {"ipv4": True, "ipv6": True}, "-4 and -6 exclude each other"),
        (("8000", "kms.test", "443"), {"max_connections": 0}, "max_connections: "),
        ((), {}, "destinations: field is missing"),
        ((), {"ipv4": True}, "-4 and -6 go with REMOTE_HOST"),
    ],
)
def test_a_bad_command_line_names_the_argument(
    target: tuple[str, ...], options: dict[str, bool | int | str], said: str, allow_list: Path
) -> None:
    """Each mistake is one line with the argument or key."""
    chosen: dict[str, bool | int | str | None] = {"ipv4": False, "ipv6": False, "max_connections": None, "listen": None}
    with pytest.raises(ConfigError) as caught:
        settings_of_command(list(target), config=allow_list, **{**chosen, **options})  # type: ignore[arg-type]  # a table
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"\xff", "not UTF-8"), (b"x: 1", "allowlist")])
def test_a_bad_file_is_named(content: bytes | None, said: str, tmp_path: Path) -> None:
    """The line begins with the path of the file."""
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        _command("8000", "kms.test", "443", config=path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def _two_destinations(tmp_path: Path) -> ProxySettings:
    return parse_settings(
        "allowlist: [{address: a.test, port: 443}, {address: b.test, port: 443}]\n"
        "limits: {drain_idle_s: 0.01, metrics_interval_s: 0.01, max_connections: 10}\n"
        "destinations:\n"
        f"- {{listen: 'unix://{tmp_path}/a', host: a.test, port: 443}}\n"
        f"- {{listen: 'unix://{tmp_path}/b', host: b.test, port: 443}}\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_two_destinations_one_process_until_the_signal(
    number: signal.Signals, tmp_path: Path, serve_upstream: ServeUpstream
) -> None:
    """Each listener leads to its own destination; systemd is told; the signal drains; the last report is complete."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0)
        lines: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def shout(connection: socket.socket) -> None:
            await loop.sock_sendall(connection, (await loop.sock_recv(connection, 100)).upper())

        async with serve_upstream(_echo) as echo, serve_upstream(shout) as upper:

            def lookups(_: int | None) -> Lookup:
                async def lookup(host: str, port: int) -> Sequence[AddressInfo]:
                    return [{("a.test", 443): echo, ("b.test", 443): upper}[host, port]]

                return lookup

            with capture_logs() as logs:
                async with asyncio.TaskGroup() as group:
                    group.create_task(
                        run_proxy(
                            _two_destinations(tmp_path),
                            clock=lambda: 1.0,
                            notifier=Notifier(str(tmp_path / "notify")),
                            write_line=lines.put_nowait,
                            lookups=lookups,
                        )
                    )
                    assert await loop.sock_recv(systemd, 100) == b"READY=1"
                    assert await _ask(tmp_path / "a") == b"ping"
                    assert await _ask(tmp_path / "b") == b"PING"
                    await lines.get()
                    os.kill(os.getpid(), number)
                    assert await loop.sock_recv(systemd, 100) == b"STOPPING=1"
        reports = [json.loads(lines.get_nowait()) for _ in range(lines.qsize())]
        assert {report["Destination"] for report in reports} == {"a.test:443", "b.test:443"}
        assert reports[-1]["Open"] == 0
        events = [line["event"] for line in logs]
        assert events.count("listening") == 2
        assert "proxy_health" in events
        assert events[-1] == "drained"


async def test_an_address_in_use_is_told_before_anything_is_served(tmp_path: Path) -> None:
    """The error names the address, and the other listener is closed again."""
    with listen(UnixAddress(str(tmp_path / "b"))), pytest.raises(ListenError, match=f"unix://{tmp_path}/b"):
        await run_proxy(_two_destinations(tmp_path), clock=lambda: 1.0, notifier=Notifier(), write_line=str)
    with pytest.raises(ConnectionRefusedError):
        await connect(UnixAddress(str(tmp_path / "a")), timeout_s=1)


@pytest.mark.parametrize(("hard", "enough", "new_soft"), [(100_000, "enough", 104), (103, "too few", 103)])
def test_the_descriptor_limit_is_raised_as_far_as_needed(
    hard: int, enough: str, new_soft: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two descriptors a connection and some to spare; what the hard limit does not allow is told."""
    limits = [(16, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert enough_descriptors(_two_destinations(tmp_path)) is (enough == "enough")
    assert limits[-1] == (new_soft, hard)


async def _start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )


async def test_the_command_serves_and_exits_0_once_drained(tmp_path: Path, serve_upstream: ServeUpstream) -> None:
    """A real process, the system's DNS, a connection through it, SIGTERM, exit code 0, metrics on standard output."""
    loop = asyncio.get_running_loop()
    async with serve_upstream(_echo) as upstream:
        port = upstream[4][1]
        config = tmp_path / "config.yaml"
        config.write_text(f"allowlist: [{{address: 127.0.0.1, port: {port}}}]\n")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(tmp_path / "notify"))
            systemd.settimeout(0)
            listen_on = f"unix://{tmp_path}/proxy.sock"
            process = await _start(
                *("-4", "-w", "7", "--config", str(config), "--listen", listen_on, "127.0.0.1", str(port)),
                NOTIFY_SOCKET=str(tmp_path / "notify"),
            )
            assert await loop.sock_recv(systemd, 100) == b"READY=1"
            assert await _ask(tmp_path / "proxy.sock") == b"ping"
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
    assert process.returncode == 0, err
    metrics = [json.loads(line) for line in out.splitlines() if line.startswith(b'{"_aws"')]
    assert metrics[-1]["Accepted"] == 1


@pytest.mark.parametrize(
    ("listen_on", "code", "said"),
    [("tcp://x", 2, "vsock-proxy: listen: "), ("unix:///nowhere/x.sock", 1, "vsock-proxy: cannot listen on unix:///n")],
)
async def test_the_command_tells_why_it_cannot_start(listen_on: str, code: int, said: str, allow_list: Path) -> None:
    """Exit code 2 for bad arguments, 1 for an address that cannot be had; one line on standard error."""
    process = await _start("--config", str(allow_list), "--listen", listen_on, "kms.test", "443")
    _, err = await process.communicate()
    assert process.returncode == code
    assert err.decode().startswith(said)
    assert err.count(b"\n") == 1
