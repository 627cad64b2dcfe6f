"""The parent instance: allocator, enclaves as nitro-cli sees them, and the proxy's way out."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import yaml

from protocol.cbor import is_list, is_map
from workers.doctor.finding import Finding, Grade
from workers.proxy.settings import ProxySettings

ALLOCATOR: Final = Path("/etc/nitro_enclaves/allocator.yaml")
"""Where the Nitro CLI's allocator reads how much to set aside."""

_TIMEOUT_S: Final = 5.0
_MIN_MEMORY_MIB: Final = 512
_MIN_CPUS: Final = 2
"""A whole core: enclaves get both of its threads."""


def check_allocator(path: Path = ALLOCATOR) -> Finding:
    """Look at what is set aside for enclaves."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Finding(
            "allocator", Grade.WARN, "no allocator.yaml: not a Nitro parent", "dnf install aws-nitro-enclaves-cli"
        )
    except OSError as error:
        return Finding("allocator", Grade.FAIL, f"{path}: {error.strerror}", "read it as root")
    try:
        found: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not is_map(found):
        return Finding("allocator", Grade.FAIL, f"{path} is no YAML map", "memory_mib and cpu_count, one a line")
    problem = _allocator_problem(found)
    if problem:
        return Finding("allocator", Grade.FAIL, problem, f"edit {path}, restart nitro-enclaves-allocator")
    memory, cpus = found["memory_mib"], found.get("cpu_pool") or found["cpu_count"]
    return Finding("allocator", Grade.OK, f"{memory} MiB, CPUs {cpus}")


def _allocator_problem(settings: dict[Any, Any]) -> str | None:
    memory, cpus, pool = (settings.get(name) for name in ("memory_mib", "cpu_count", "cpu_pool"))
    if (cpus is None) == (pool is None):
        return "it needs cpu_count or cpu_pool, not both"
    if not isinstance(memory, int) or memory < _MIN_MEMORY_MIB:
        return f"memory_mib is {memory}; at least {_MIN_MEMORY_MIB}"
    if pool is None and (not isinstance(cpus, int) or cpus < _MIN_CPUS):
        return f"cpu_count is {cpus}; at least {_MIN_CPUS}"
    return None


async def check_nitro_cli(program: str = "nitro-cli") -> list[Finding]:
    """Ask nitro-cli which enclaves run, and whether any is in debug mode."""
    try:
        process = await asyncio.create_subprocess_exec(
            program, "describe-enclaves", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except FileNotFoundError:
        return [Finding("nitro-cli", Grade.WARN, "not installed: enclaves were asked themselves only")]
    output, _ = await process.communicate()
    enclaves = _enclaves(output)
    if process.returncode or enclaves is None:
        return [Finding("nitro-cli", Grade.FAIL, "describe-enclaves failed", "is this user in the group ne?")]
    if not enclaves:
        return [Finding("nitro-cli", Grade.FAIL, "no enclave runs", "systemctl start nitro-signer-enclave")]
    return [_judge_enclave(enclave) for enclave in enclaves]


def _enclaves(output: bytes) -> list[dict[Any, Any]] | None:
    try:
        value = json.loads(output)
    except ValueError:
        return None
    return [item for item in value if is_map(item)] if is_list(value) else None


def _judge_enclave(enclave: dict[Any, Any]) -> Finding:
    name = f"nitro-cli {enclave.get('EnclaveName') or enclave.get('EnclaveID')}"
    if "DEBUG" in str(enclave.get("Flags")):
        fix = "start it without --debug-mode: its memory can be read, and KMS sees zeros"
        return Finding(name, Grade.FAIL, "it is in debug mode", fix)
    if enclave.get("State") != "RUNNING":
        return Finding(name, Grade.FAIL, f"it is {enclave.get('State')}", "systemctl restart nitro-signer-enclave")
    return Finding(name, Grade.OK, f"running at CID {enclave.get('EnclaveCID')}")


async def check_proxy(settings: ProxySettings) -> list[Finding]:
    """Connect to each destination of the proxy, as it would."""
    if not settings.destinations:
        return [Finding("proxy", Grade.WARN, "its file names no destination", "docs/vsock-proxy.md")]
    return [await _reach(destination.host, destination.port) for destination in settings.destinations]


async def _reach(host: str, port: int) -> Finding:
    check = f"proxy to {host}:{port}"
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:  # TimeoutError and DNS failures are OSErrors
        fix = "VPC endpoint: state, security group, private DNS"
        return Finding(check, Grade.FAIL, f"cannot connect: {error.strerror or type(error).__name__}", fix)
    writer.close()
    return Finding(check, Grade.OK, "reachable")
