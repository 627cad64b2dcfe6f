"""Tells systemd how the service does: sd_notify(3) over the datagram socket of NOTIFY_SOCKET.

Outside systemd the variable is not set and nothing is sent.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

_MICROSECONDS = 1_000_000

HEALTH_FIELD = "X_NITRO_SIGNER_HEALTH"
"""Our own assignment, between a process group and its processes; systemd passes over fields that it does not know."""


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends states to systemd.

    Attributes:
        socket_path: where to send to (`@` first for an abstract address), or None to send nothing.
        watchdog_s: systemd restarts the service after so many seconds without a sign of life; None: it does not watch.
    """

    socket_path: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int | None = None) -> "Notifier":
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3)); `pid` is this process's."""
        path = environment.get("NOTIFY_SOCKET") or None
        watched_pid = environment.get("WATCHDOG_PID")
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = watched_pid is None or watched_pid == str(os.getpid() if pid is None else pid)
        watched = path is not None and ours and microseconds.isdecimal() and int(microseconds) > 0
        return cls(path, int(microseconds) / _MICROSECONDS if watched else None)

    def ready(self) -> None:
        """The service serves."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service drains."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + text.replace("\n", " "))

    def health(self, report: str) -> None:
        """One line of JSON about a process of a group."""
        self._send(f"{HEALTH_FIELD}={report}")

    async def keep_alive(self) -> None:
        """Send signs of life at half the watchdog's time, for ever; return at once when nobody watches.

        It runs on the event loop on purpose: a loop that hangs sends none, and systemd restarts the service.
        """
        if self.watchdog_s is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _send(self, state: str) -> None:
        if self.socket_path is None:
            return
        address = "\0" + self.socket_path[1:] if self.socket_path.startswith("@") else self.socket_path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)  # never wait for systemd: a lost sign of life is made up by the next
            sock.sendto(state.encode(), address)
