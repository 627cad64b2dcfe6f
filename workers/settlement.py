"""Carries out what follows the handler: replies, dead-letter copies, deletes and releases, in shared batch calls."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from config.engine import EngineSettings
from protocol.clock import Clock
from protocol.errors import ErrorCode, SignerError
from workers.batching import Batcher
from workers.delivery import Delivery
from workers.letters import Letter, dead_letter, error_reply, reply_letter
from workers.lifecycle import Event
from workers.sqs import SqsCalls

_UNDELIVERABLE = SignerError(ErrorCode.INTERNAL, "the reply queue did not take the answer")


class Settlement:
    """Each method carries out one action for several messages, and returns an event for each, in their order."""

    def __init__(
        self,
        settings: EngineSettings,
        calls: SqsCalls,
        group: asyncio.TaskGroup,
        *,
        clock: Clock,
        uniform: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._calls = calls
        self._group = group
        self._clock = clock
        self._uniform = uniform
        self._senders: dict[str, Batcher[Letter]] = {}
        flush_s = settings.flush_ms / 1000
        url = settings.queue_url
        self._deletes: Batcher[str] = Batcher(partial(calls.delete, url), group, flush_s=flush_s)
        self._releases: Batcher[tuple[str, int]] = Batcher(
            partial(calls.change_visibility, url), group, flush_s=flush_s
        )

    async def reply(self, deliveries: Sequence[Delivery]) -> Sequence[Event]:
        """Send the replies, each to its own queue."""
        letters = [reply_letter(delivery, _reply_of(delivery)) for delivery in deliveries]
        urls = {delivery.reply_queue_url for delivery in deliveries}
        if len(urls) == 1:
            return await self._send(urls.pop(), letters)
        events: dict[int, Event] = {}

        async def send_to(url: str) -> None:
            positions = [i for i, delivery in enumerate(deliveries) if delivery.reply_queue_url == url]
            sent = await self._send(url, [letters[i] for i in positions])
            events.update(zip(positions, sent, strict=True))

        async with asyncio.TaskGroup() as sends:
            for url in urls:
                sends.create_task(send_to(url), name="replies")
        return [events[i] for i in range(len(deliveries))]

    async def copy(self, deliveries: Sequence[Delivery]) -> Sequence[Event]:
        """Send copies to the dead-letter queue."""
        settings = self._settings
        target_url = cast("str", settings.dead_letter_queue_url)  # without one, the life cycle asks for no copy
        letters = [
            dead_letter(
                delivery,
                delivery.error or _UNDELIVERABLE,
                source_url=settings.queue_url,
                target_url=target_url,
                max_bytes=settings.max_batch_bytes,
            )
            for delivery in deliveries
        ]
        return await self._send(target_url, letters)

    async def delete(self, deliveries: Sequence[Delivery]) -> Sequence[Event]:
        """Delete the messages."""
        return await self._deletes.submit([delivery.receipt_handle for delivery in deliveries])

    async def release(self, deliveries: Sequence[Delivery]) -> Sequence[Event]:
        """Give the messages back, each after its own back-off."""
        now = self._clock()
        return await self._releases.submit(
            [(delivery.receipt_handle, delivery.life.release_delay_s(now, self._uniform)) for delivery in deliveries]
        )

    async def _send(self, url: str, letters: Sequence[Letter]) -> Sequence[Event]:
        sender = self._senders.get(url)
        if sender is None:
            sender = self._senders[url] = Batcher(
                partial(self._calls.send, url),
                self._group,
                flush_s=self._settings.flush_ms / 1000,
                max_bytes=self._settings.max_batch_bytes,
                weigh=lambda letter: letter.size_bytes,
            )
        events = await sender.submit(letters)
        if sender.is_idle and self._senders.get(url) is sender:
            del self._senders[url]  # jobs may name many queues: keep only those in use
        return events


def _reply_of(delivery: Delivery) -> str:
    if delivery.reply is None:
        delivery.reply = error_reply(delivery, delivery.error or _UNDELIVERABLE)
    return delivery.reply
