"""What is shipped in deploy/ works with the program as it is."""

import configparser
from pathlib import Path

from workers.cli.vsock_proxy import settings_of_command
from workers.proxy.settings import ProxyLimits, ProxySettings

_DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def _shipped() -> ProxySettings:
    path = _DEPLOY / "vsock-proxy.yaml"
    return settings_of_command([], ipv4=False, ipv6=False, max_connections=None, config=path, listen=None)


def test_the_example_file_is_complete_and_allows_its_own_destinations() -> None:
    """The file starts the proxy without arguments, and nothing in it is refused by its own allow-list."""
    settings = _shipped()
    assert settings.destinations
    assert all(settings.allowed.names(destination.host, destination.port) for destination in settings.destinations)


def test_the_unit_fits_the_program() -> None:
    """It starts this command, waits longer than the drain, allows enough descriptors and does not retry bad files."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(_DEPLOY / "systemd" / "nitro-signer-vsock-proxy.service")
    service = unit["Service"]
    assert " vsock-proxy --config /etc/nitro-signer/vsock-proxy.yaml" in service["ExecStart"]
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > ProxyLimits().drain_timeout_s
    assert int(service["LimitNOFILE"]) >= 2 * _shipped().limits.max_connections + 64
    assert service["RestartPreventExitStatus"] == "2"
