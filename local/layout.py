"""Where a local stack keeps its things: one state folder, and a short run folder for sockets."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from protocol.address import MAX_UNIX_PATH_BYTES, Address, UnixAddress
from protocol.messages import Role

_LONGEST_SOCKET_NAME: Final = len("/generate-worker-notify.sock")
_PRIVATE: Final = 0o700


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one stack."""

    state: Path
    run: Path

    @classmethod
    def prepare(cls, state: Path) -> Self:
        """Make the folders. The run folder stays the same over restarts, because addresses are measured."""
        state = state.resolve()
        state.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        if len(os.fsencode(state / "run")) + _LONGEST_SOCKET_NAME <= MAX_UNIX_PATH_BYTES:
            run = state / "run"
        else:  # a Unix socket's path is short by law of the kernel
            link = state / "run-folder"
            run = Path(link.read_text()) if link.exists() else Path(tempfile.mkdtemp(prefix="nitro-local-"))
            link.write_text(str(run))
        for folder in (run, state / "logs"):
            folder.mkdir(mode=_PRIVATE, exist_ok=True)
        return cls(state, run)

    def enclave_config(self, role: Role) -> Path:
        """The measured configuration of an enclave."""
        return self.state / f"{role}.toml"

    def enclave_address(self, role: Role) -> Address:
        """Where an enclave listens."""
        return UnixAddress(str(self.run / f"{role}.sock"))

    def proxy_address(self, role: Role) -> Address:
        """Where the vsock-proxy of an enclave listens."""
        return UnixAddress(str(self.run / f"{role}-proxy.sock"))

    @property
    def kms(self) -> Path:
        """State of the attesting KMS."""
        return self.state / "kms"

    @property
    def nitro(self) -> Path:
        """State of the stand-in's Nitro authority."""
        return self.state / "nitro"

    @property
    def emulator(self) -> Path:
        """State of the SQS and DynamoDB emulator."""
        return self.state / "ministack"

    @property
    def nitro_root(self) -> Path:
        """The stand-in's root certificate, PEM: what verifies this stack's attestation documents."""
        return self.state / "nitro-root.pem"

    @property
    def allow_list(self) -> Path:
        """The allow-list of the vsock-proxies."""
        return self.state / "vsock-proxy.yaml"

    @property
    def audit(self) -> Path:
        """The audit lines of the attesting KMS, as CloudTrail would have them."""
        return self.state / "logs" / "kms-audit.jsonl"

    @property
    def worker_config(self) -> Path:
        """The settings of both workers."""
        return self.state / "worker.toml"

    @property
    def client_config(self) -> Path:
        """The settings of a client."""
        return self.state / "client.toml"

    @property
    def facts(self) -> Path:
        """The line that `up` printed, while the stack runs."""
        return self.state / "stack.json"

    def log(self, name: str) -> Path:
        """What a child prints."""
        return self.state / "logs" / f"{name}.log"

    @property
    def kms_port(self) -> int:
        """The port that the attesting KMS had at the last start; 0 at the first."""
        path = self.kms / "port"
        return int(path.read_text()) if path.exists() else 0

    def keep_kms_port(self, port: int) -> None:
        """Have the next start take the same port: clients keep the address."""
        (self.kms / "port").write_text(f"{port}\n")
