"""The proxy process: several destinations, one event loop, reports by the minute, a drain at SIGTERM."""

import asyncio
import contextlib
import resource
import signal
from collections.abc import Callable, Generator

import structlog

from protocol.address import Address
from protocol.clock import Clock
from protocol.transport import StreamSocket, listen
from workers.proxy.metrics import IntervalReport
from workers.proxy.relay import BUFFER_BYTES
from workers.proxy.resolver import Lookup, system_lookup
from workers.proxy.server import DestinationServer
from workers.proxy.settings import Destination, ProxySettings
from workers.service.sdnotify import Notifier

LookupFactory = Callable[[int | None], Lookup]
"""Makes the DNS lookup for one IP version (4 or 6), or for both (None)."""

_DESCRIPTORS_PER_CONNECTION = 2
_SPARE_DESCRIPTORS = 64
"""For listeners, the event loop, DNS and log files."""


class ListenError(Exception):
    """A listening address cannot be had; the text is one line that names it."""


def enough_descriptors(settings: ProxySettings) -> bool:
    """Raise this process's soft limit of open files as far as needed and allowed; return whether that is enough."""
    needed = _SPARE_DESCRIPTORS + (
        _DESCRIPTORS_PER_CONNECTION * settings.limits.max_connections * len(settings.destinations)
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    return needed <= hard


async def run_proxy(
    settings: ProxySettings,
    *,
    clock: Clock,
    notifier: Notifier,
    write_line: Callable[[str], object],
    lookups: LookupFactory = system_lookup,
) -> None:
    """Serve every destination until SIGTERM or SIGINT, then drain.

    Args:
        settings: with at least one destination.
        clock: stamps the metrics.
        notifier: tells systemd that the process is ready, alive and stopping.
        write_line: takes the lines of embedded metrics.
        lookups: DNS.

    Raises:
        ListenError: an address is in use or not available; nothing has been served.
    """
    log = structlog.get_logger()
    stop = asyncio.Event()
    with _open_listeners(settings.destinations) as listeners, _stop_signals(stop):
        if not enough_descriptors(settings):
            log.warning("descriptor_limit_low", max_connections=settings.limits.max_connections)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        servers = [
            DestinationServer(
                destination,
                settings.limits,
                allow_list=settings.allowed,
                lookup=lookups(destination.ip_version),
                buffer=buffer,
            )
            for destination in settings.destinations
        ]
        reports = [IntervalReport(server.metrics) for server in servers]
        async with asyncio.TaskGroup() as helpers:
            reporting = helpers.create_task(_report(reports, settings.limits.metrics_interval_s, clock, write_line))
            watching = helpers.create_task(notifier.keep_alive())
            async with asyncio.TaskGroup() as group:
                for server, listener, destination in zip(servers, listeners, settings.destinations, strict=True):
                    group.create_task(server.run(listener, stop), name=destination.name)
                    log.info("listening", listen=destination.listen, destination=destination.name)
                notifier.ready()
                await stop.wait()
                notifier.stopping()
            reporting.cancel()
            watching.cancel()
        _report_now(reports, clock, write_line)
    log.info("drained")


@contextlib.contextmanager
def _open_listeners(destinations: list[Destination]) -> Generator[list[StreamSocket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_listener(destination.address)) for destination in destinations]


def _listener(address: Address) -> StreamSocket:
    try:
        return listen(address)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from error


@contextlib.contextmanager
def _stop_signals(stop: asyncio.Event) -> Generator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _report(
    reports: list[IntervalReport], interval_s: float, clock: Clock, write_line: Callable[[str], object]
) -> None:
    while True:
        await asyncio.sleep(interval_s)
        _report_now(reports, clock, write_line)


def _report_now(reports: list[IntervalReport], clock: Clock, write_line: Callable[[str], object]) -> None:
    log = structlog.get_logger()
    for report in reports:
        line, health = report.take(clock())
        write_line(line)
        log.info("proxy_health", **health)
