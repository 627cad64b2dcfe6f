"""The connection to one server process of an enclave: made, greeted, given credentials, watched, and made again.

What is known of a process ends with its connection: a process that was restarted is met anew, with nothing believed of
the one before.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Generic, cast

import structlog

from config.worker import MIN_FRAME_BYTES, EnclaveClientSettings
from protocol.address import Address
from protocol.channel import Channel, open_channel
from protocol.errors import ErrorCode, SignerError
from protocol.messages import EnclaveFacts, HelloResult, NotReadyReason, Role, SetCredentials, Status, StatusResult
from protocol.version import SOFTWARE
from workers.collector import Collector, fallible_collector
from workers.enclaves.calls import ENVELOPE_BYTES, FromEnclave, ItemT, Operation, ValueT
from workers.enclaves.counts import EnclaveCounts
from workers.enclaves.credentials import CredentialSource, NoCredentialsError
from workers.enclaves.events import event_relay
from workers.lifecycle import full_jitter_ceiling

_FIRST_PAUSE_S: Final = 0.1
_NOT_READY_CHECK_S: Final = 0.25
"""How often a process that does not work yet is asked again: an enclave's start takes about a second."""

_DOUBTFUL: Final = frozenset({ErrorCode.NOT_READY, ErrorCode.DEADLINE_EXCEEDED})
"""Answers to a batch after which the process is asked at once how it is."""

log = structlog.get_logger()


class _WrongEnclaveError(Exception):
    """Another enclave than the configuration means; nothing is sent to it, credentials least of all."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(found)
        self.expected = expected
        self.found = found


class EnclaveLink(Generic[ItemT, ValueT]):
    """One server process.

    Attributes:
        address: where it listens.
        in_flight: items that it has not answered.
        facts: what it said of itself when it was last met; None before.
        counts: what it had counted when it was last asked; None before.
    """

    def __init__(
        self,
        address: Address,
        operation: Operation[ItemT, ValueT],
        settings: EnclaveClientSettings,
        credentials: CredentialSource,
        group: asyncio.TaskGroup,
        *,
        kms_key_arn: str | None,
        uniform: Callable[[], float],
        on_hello: Callable[[HelloResult], None],
        on_change: Callable[[], None],
    ) -> None:
        """Take what it is for, and whom to tell: `on_hello` of each meeting, `on_change` when it is ready or not."""
        self.address = address
        self.in_flight = 0
        self.facts: EnclaveFacts | None = None
        self.counts: EnclaveCounts | None = None
        self._operation = operation
        self._settings = settings
        self._credentials = credentials
        self._group = group
        self._kms_key_arn = kms_key_arn
        self._uniform = uniform
        self._on_hello = on_hello
        self._on_change = on_change
        self._channel: Channel | None = None
        self._batches: Collector[ItemT, FromEnclave[ValueT] | SignerError] | None = None
        self._is_ready = False
        self._reason: NotReadyReason | None = None
        self._pause: asyncio.Timeout | None = None
        self._failures = 0
        self._log = log.bind(address=str(address))

    @property
    def is_ready(self) -> bool:
        """Whether items may be sent now."""
        return self._is_ready and self._channel is not None and self._channel.is_open

    async def submit(self, items: Sequence[ItemT]) -> Sequence[FromEnclave[ValueT] | SignerError]:
        """Have items done, in frames shared with other callers; return a result for each."""
        batches = self._batches
        if batches is None:
            return [SignerError(ErrorCode.ENCLAVE_UNAVAILABLE)] * len(items)
        self.in_flight += len(items)
        try:
            return await batches.submit(items)
        finally:
            self.in_flight -= len(items)

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        while True:
            try:
                await self._connect_once()
            except SignerError as error:
                self._failures += 1
                self._log.warning("enclave_unreachable", code=error.code, error=error.detail, count=self._failures)
            except _WrongEnclaveError as error:
                self._failures += 1
                self._log.error("enclave_is_another", expected=error.expected, found=error.found)
            ceiling_s = full_jitter_ceiling(_FIRST_PAUSE_S, self._settings.reconnect_cap_s, max(self._failures, 1))
            await asyncio.sleep(self._uniform() * ceiling_s)

    async def _connect_once(self) -> None:
        async with open_channel(
            self.address,
            software=SOFTWARE,
            timeout_s=self._settings.connect_timeout_s,
            on_events=event_relay(self.address),
            max_frame_bytes=self._settings.max_frame_bytes,
        ) as channel:
            self._meet(channel.hello)
            self._channel = channel
            self._batches = self._collector(channel)
            try:
                await self._watch(channel)
            finally:
                self._channel = self._batches = None
                self._set_ready(is_ready=False, reason=None)
        raise SignerError(ErrorCode.ENCLAVE_UNAVAILABLE, "the connection to the enclave is lost")

    def _meet(self, hello: HelloResult) -> None:
        """Check that this is an enclave that the configuration means.

        Raises:
            _WrongEnclaveError: names what is expected and what is there.
        """
        facts, role = hello.enclave, self._operation.role
        if facts.role not in {role, None}:  # None: it could not read its configuration, and will say so
            raise _WrongEnclaveError(role, facts.role or Role.SIGNER)
        if self._kms_key_arn is not None and facts.kms_key_arn not in {self._kms_key_arn, None}:
            raise _WrongEnclaveError(self._kms_key_arn, facts.kms_key_arn or "")
        if hello.limits.max_frame_bytes < MIN_FRAME_BYTES:
            raise _WrongEnclaveError(f"frames of {MIN_FRAME_BYTES} bytes", f"{hello.limits.max_frame_bytes} bytes")
        if self.facts is not None and self.facts.instance != facts.instance:
            self._log.warning("enclave_restarted", instance=facts.instance.hex())
        self.facts = facts
        self._log.info(
            "enclave_connected",
            module_id=facts.module_id,
            instance=facts.instance.hex(),
            software=facts.software,
            processes=facts.processes,
        )
        self._on_hello(hello)

    # Health

    async def _watch(self, channel: Channel) -> None:
        """Push credentials and ask for the status, again and again, until the connection is lost."""
        pushed: SetCredentials | None = None
        while channel.is_open:
            pushed = await self._push_credentials(channel, pushed)
            await self._check(channel)
            interval_s = self._settings.check_interval_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s if self._is_ready else min(_NOT_READY_CHECK_S, interval_s)) as (
                    self._pause
                ):
                    await channel.wait_closed()
            self._pause = None

    async def _push_credentials(self, channel: Channel, pushed: SetCredentials | None) -> SetCredentials | None:
        """Push what the process does not have yet; return what it has."""
        try:
            newest = await self._credentials.current()
        except NoCredentialsError as error:
            self._log.warning("credentials_unavailable", code=error.code)
            return pushed
        if newest == pushed:
            return pushed
        try:
            await channel.call(newest, timeout_s=self._settings.connect_timeout_s)
        except SignerError as error:
            if error.code is ErrorCode.OVERLOADED:
                return pushed  # pushed at the next look
            raise
        return newest

    async def _check(self, channel: Channel) -> None:
        try:
            status = cast("StatusResult", await channel.call(Status(), timeout_s=self._settings.connect_timeout_s))
        except SignerError as error:
            if error.code is ErrorCode.OVERLOADED:
                return  # it is busy, not ill
            raise
        if status.ready and channel.hello.enclave.module_id is None:
            raise SignerError(ErrorCode.NOT_READY, "met while it started: its facts are asked for again")
        self._failures = 0
        self.counts = EnclaveCounts(channel.hello.enclave.instance, status.counters)
        self._set_ready(is_ready=status.ready, reason=status.reason)

    def _set_ready(self, *, is_ready: bool, reason: NotReadyReason | None) -> None:
        if is_ready != self._is_ready or reason is not self._reason:
            self._is_ready, self._reason = is_ready, reason
            if is_ready:
                self._log.info("enclave_ready")
            elif reason is None:
                self._log.info("enclave_disconnected")
            else:
                self._log.warning("enclave_not_ready", reason=reason)
        self._on_change()

    def _look_again(self) -> None:
        if self._pause is not None and not self._pause.expired():
            self._pause.reschedule(asyncio.get_running_loop().time())

    # Batches

    def _collector(self, channel: Channel) -> Collector[ItemT, FromEnclave[ValueT] | SignerError]:
        limits, settings = channel.hello.limits, self._settings

        async def call(items: Sequence[ItemT]) -> Sequence[FromEnclave[ValueT] | SignerError]:
            return await self._call(channel, items)

        return fallible_collector(
            call,
            self._group,
            max_items=min(limits.max_batch_items, settings.max_batch_items),
            wait_s=settings.collect_ms / 1000,
            max_bytes=min(limits.max_frame_bytes, settings.max_frame_bytes) - ENVELOPE_BYTES,
            weigh=self._operation.weigh,
        )

    async def _call(self, channel: Channel, items: Sequence[ItemT]) -> Sequence[FromEnclave[ValueT] | SignerError]:
        try:
            result = await channel.call(self._operation.request(items), timeout_s=self._settings.call_timeout_s)
            values = self._operation.read(result)
        except SignerError as error:
            if error.code in _DOUBTFUL:
                self._look_again()
            raise
        if len(values) != len(items):
            self._log.error("enclave_miscounted", count=len(items), found=len(values))
            channel.close()
            raise SignerError(ErrorCode.ENCLAVE_UNAVAILABLE)
        facts = channel.hello.enclave
        return [value if isinstance(value, SignerError) else FromEnclave(value, facts) for value in values]
