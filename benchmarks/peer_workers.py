"""Starts the peers in their own environment, and fills their queues as their users do."""

import contextlib
import json
import os
import subprocess
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.aws_server import AwsServer
from benchmarks.machine import ROOT

PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"

_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "celery": ("celery", "-A", "benchmarks.peers.celery_peer", "worker", "--concurrency=1", "--loglevel=WARNING",
               "--without-gossip", "--without-mingle", "--without-heartbeat"),
    "dramatiq": ("dramatiq", "benchmarks.peers.dramatiq_peer", "--processes=1", "--threads=8"),
    "taskiq": ("taskiq", "worker", "benchmarks.peers.taskiq_peer:broker", "--workers=1", "--log-level=WARNING"),
    "plain": ("benchmarks.peers.plain_loop",),
    "sequential": ("benchmarks.peers.sequential_loop",),
}  # fmt: skip
FRAMEWORKS: Final = ("celery", "dramatiq", "taskiq")


@dataclass(frozen=True, slots=True)
class Peer:
    """A running peer."""

    name: str
    pid: int
    aws: AwsServer
    environ: Mapping[str, str]

    def fill(self, kind: str, count: int) -> None:
        """Enqueue jobs, by the peer's own client where its messages have a form of their own."""
        if self.name in FRAMEWORKS:
            command = [str(PYTHON), "-m", f"benchmarks.peers.{self.name}_peer", "fill", kind, str(count)]
            subprocess.run(command, cwd=ROOT, env=self.environ, check=True)
        else:
            jobs = [json.dumps({"kind": kind, "number": number}) for number in range(count)]
            self.aws.fill(f"{self.name}-jobs", jobs)


@contextlib.contextmanager
def run_peer(name: str, aws: AwsServer, logs: Path) -> Generator[Peer, None, None]:
    """Start a peer, and end it at the end."""
    environ = {
        "PATH": os.defpath,
        "BENCH_ENDPOINT": aws.url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with (logs / f"{name}.log").open("wb") as log:
        child = subprocess.Popen([str(PYTHON), "-m", *_COMMANDS[name]], cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        yield Peer(name, child.pid, aws, environ)
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        if child.returncode is None:
            child.kill()
