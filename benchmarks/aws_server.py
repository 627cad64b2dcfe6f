"""The memory server as a child process, and its controls: see `benchmarks.memory_aws`."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

_POLL_S: Final = 0.02
_TIMEOUT_S: Final = 300.0
"""Of the slowest jobs on a busy machine."""


@dataclass(frozen=True, slots=True)
class AwsServer:
    """A running memory server."""

    url: str
    pid: int

    def counts(self) -> dict[str, Any]:
        """Return what it has counted."""
        return self._ask("/", None)

    def fill(self, queue: str, bodies: Sequence[str]) -> None:
        """Put messages on a queue."""
        self._ask(f"/fill?{queue}", list(bodies))

    def wait_for_replies(self, until: int) -> None:
        """Return when so many replies were sent since its start, and nothing is in flight."""
        end = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < end:
            counts = self.counts()
            if counts["replies"] >= until and not counts["in_flight"]:
                assert counts["errors"] == 0, "a job of the benchmark failed"
                return
            time.sleep(_POLL_S)
        raise TimeoutError(f"waited for {until} replies: {self.counts()}")

    def _ask(self, path: str, body: object) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data)) as answer:  # noqa: S310 - loopback
            found: dict[str, Any] = json.loads(answer.read())
            return found


@contextlib.contextmanager
def run_aws_server() -> Generator[AwsServer, None, None]:
    """Start a server, and end it at the end."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.memory_aws"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield AwsServer(f"http://127.0.0.1:{int(child.stdout.readline())}", child.pid)
        finally:
            child.terminate()
