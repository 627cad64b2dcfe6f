"""The whole service on the memory server: its worker and enclave processes are measured while they do real jobs."""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.aws_server import AwsServer
from benchmarks.machine import cpu_seconds, largest_resident_mib, pin
from local.stack import LocalStack, run_stack
from local.stack_options import AwsEndpoints, StackOptions

SIGN_QUEUE: Final = "nitro-signer-sign"
GENERATE_QUEUE: Final = "nitro-signer-generate"
WORKER, SIGNER, GENERATOR = "sign-worker", "signer-enclave", "generator-enclave"

USERS: Final = 200
BULK_ITEMS: Final = 1000

_ENVIRON: Final = {"NITRO_SIGNER_LOG_LEVEL": "info"}
"""As in production: an audit line for each signature."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What some jobs cost: CPU-seconds of each process, and AWS calls by their names."""

    jobs: int
    cpu_s: Mapping[str, float]
    calls: Mapping[str, int]

    def per_cpu_second(self, process: str) -> float:
        """Return jobs for each CPU-second of a process."""
        return self.jobs / max(self.cpu_s[process], 0.01)

    def calls_per_1000(self) -> dict[str, float]:
        """Return AWS calls for a thousand jobs."""
        return {name: count * 1000 / self.jobs for name, count in sorted(self.calls.items()) if count}


@dataclass(frozen=True, slots=True)
class Service:
    """A running stack."""

    stack: LocalStack
    aws: AwsServer

    def do(self, queue: str, bodies: list[str], *, signatures: int | None = None) -> Spent:
        """Have jobs done, and return what they cost, for a signature where a job has many."""
        before, calls = self._cpu(), self.aws.counts()
        self.aws.fill(queue, bodies)
        self.aws.wait_for_replies(calls["replies"] + len(bodies))
        after, now = self._cpu(), self.aws.counts()
        return Spent(
            jobs=signatures or len(bodies),
            cpu_s={name: after[name] - before[name] for name in after},
            calls={name: count - calls["calls"].get(name, 0) for name, count in now["calls"].items()},
        )

    def _cpu(self) -> dict[str, float]:
        return {name: cpu_seconds(child.pid) for name, child in self.stack.children.items()}

    def generate(self, count: int, first: int = 0) -> Spent:
        """Make keys."""
        return self.do(
            GENERATE_QUEUE,
            [json.dumps({"type": "generate", "userid": f"u{number}"}) for number in range(first, first + count)],
        )

    def sign(self, count: int, users: int = USERS) -> Spent:
        """Sign with single jobs."""
        return self.do(
            SIGN_QUEUE,
            [
                json.dumps({"type": "sign", "job_id": f"s-{n}", "userid": f"u{n % users}", "message": f"payment {n}"})
                for n in range(count)
            ],
        )

    def sign_in_bulk(self, jobs: int, users: int = USERS) -> Spent:
        """Sign with bulk jobs of a thousand."""
        bodies = [
            json.dumps(
                {
                    "type": "sign_batch",
                    "items": [{"userid": f"u{n % users}", "message": f"payment {job} {n}"} for n in range(BULK_ITEMS)],
                }
            )
            for job in range(jobs)
        ]
        return self.do(SIGN_QUEUE, bodies, signatures=jobs * BULK_ITEMS)

    def decrypts(self) -> int:
        """Return how many keys KMS was asked to open since the start."""
        lines = self.stack.layout.audit.read_text().splitlines()
        return sum(json.loads(line)["eventName"] == "Decrypt" for line in lines)

    def memory_mib(self) -> dict[str, float]:
        """Return the resident memory of the largest process of each program."""
        return {name: largest_resident_mib(child.pid) for name, child in self.stack.children.items()}


@contextlib.asynccontextmanager
async def run_service(folder: Path, aws: AwsServer, **environ: str) -> AsyncGenerator[Service, None]:
    """Start a stack; the worker has a core for itself where there are two."""
    options = StackOptions(endpoints=AwsEndpoints(aws.url, aws.url), worker_environ={**_ENVIRON, **environ})
    async with run_stack(folder, options) as stack:
        pin([stack.children[WORKER].pid], 0)
        pin([child.pid for name, child in stack.children.items() if name != WORKER], 1)
        yield Service(stack, aws)
