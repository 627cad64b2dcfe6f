"""`python -m local.kms --state DIR --nitro-root PEM`: the attesting KMS as a process of its own."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from local.kms.faults import KmsFaults
from local.kms.server import AttestingKms, KmsSettings
from protocol.attestation import TrustRoot
from protocol.clock import system_clock


def main() -> int:
    """Serve until SIGTERM or SIGINT, after one line of JSON that says where."""
    arguments = _parse_arguments()
    settings = KmsSettings(
        state_dir=arguments.state,
        nitro_roots=[TrustRoot.from_pem(path.read_bytes()) for path in arguments.nitro_root],
        region=arguments.region,
        account=arguments.account,
        host=arguments.host,
        port=arguments.port,
        faults=KmsFaults(
            delay_s=arguments.fault_delay_s,
            throttle_rate=arguments.fault_throttle_rate,
            refuse_rate=arguments.fault_refuse_rate,
            refuse_code=arguments.fault_refuse_code,
            drop_rate=arguments.fault_drop_rate,
            seed=arguments.fault_seed,
        ),
        dangerous_accept_qemu_documents=arguments.dangerous_accept_qemu_documents,
    )
    audit_file: Path | None = arguments.audit_file
    if audit_file is None:
        asyncio.run(_serve(settings, _print_line))
        return 0
    with audit_file.open("a", buffering=1) as file:  # a line at a time
        asyncio.run(_serve(settings, lambda line: print(line, file=file)))
    return 0


async def _serve(settings: KmsSettings, write_audit: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with AttestingKms(settings, clock=system_clock, write_audit=write_audit) as kms:
        ready = {
            "ready": "attesting-kms",
            "endpoint_url": kms.endpoint_url,
            "port": kms.port,
            "region": settings.region,
            "account": settings.account,
            "ca_bundle": str(kms.ca_bundle.resolve()),
            "pid": os.getpid(),
        }
        _print_line(json.dumps(ready))
        await stopped.wait()


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.kms", description="A KMS that verifies enclaves.")
    parser.add_argument("--state", type=Path, required=True, help="folder of keys, principals and certificates")
    parser.add_argument(
        "--nitro-root", type=Path, nargs="+", required=True, metavar="PEM", help="roots of attestation documents"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--account", default="000000000000")
    parser.add_argument("--audit-file", type=Path, help="append audit lines here (default: standard output)")
    parser.add_argument("--fault-delay-s", type=float, default=0.0, help="every request waits so long")
    parser.add_argument("--fault-throttle-rate", type=float, default=0.0, help="share that is throttled, 0 to 1")
    parser.add_argument("--fault-refuse-rate", type=float, default=0.0, help="share that is refused")
    parser.add_argument("--fault-refuse-code", default="KMSInternalException", help="the error of a refusal")
    parser.add_argument("--fault-drop-rate", type=float, default=0.0, help="share whose connection is reset")
    parser.add_argument("--fault-seed", type=int, default=0, help="repeats a sequence of faults")
    parser.add_argument(
        "--dangerous-accept-qemu-documents",
        action="store_true",
        help="take attestation documents that nobody signed: for tests in a virtual machine, where anybody may be KMS",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
