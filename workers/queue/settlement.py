"""Carries out what follows the handler: replies, dead-letter copies, deletes and releases, in shared batch calls."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from config.engine import EngineSettings
from protocol.clock import Clock
from protocol.errors import ErrorCode, SignerError
from workers.lifecycle import Event
from workers.queue.delivery import Delivery
from workers.queue.letters import Letter, dead_letter, error_reply, reply_letters
from workers.queue.sqs import SqsCalls, entry_collector

if TYPE_CHECKING:
    from workers.collector import Collector

_UNDELIVERABLE = SignerError(ErrorCode.INTERNAL, "the reply queue did not take the answer")
_FROM_DONE_TO_WORST = (Event.DONE, Event.BROKE, Event.UNDONE)


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
        self._senders: dict[str, Collector[Letter, Event]] = {}
        flush_s = settings.flush_ms / 1000
        url = settings.queue_url
        self._deletes = entry_collector(partial(calls.delete, url), group, wait_s=flush_s)
        self._releases = entry_collector(partial(calls.change_visibility, url), group, wait_s=flush_s)

    async def reply(self, deliveries: Sequence[Delivery]) -> Sequence[Event]:
        """Send the replies, each to its own queue."""
        letters = [
            (delivery, letter) for delivery in deliveries for letter in reply_letters(delivery, _replies_of(delivery))
        ]
        by_url: dict[str, list[int]] = {}
        for position, (delivery, _) in enumerate(letters):
            by_url.setdefault(delivery.reply_queue_url, []).append(position)
        events = [Event.BROKE] * len(letters)

        async def send_to(url: str, positions: Sequence[int]) -> None:
            sent = await self._send(url, [letters[position][1] for position in positions])
            for position, event in zip(positions, sent, strict=True):
                events[position] = event

        if len(by_url) == 1:
            await send_to(*by_url.popitem())
        else:
            async with asyncio.TaskGroup() as sends:
                for url, positions in by_url.items():
                    sends.create_task(send_to(url, positions), name="replies")
        if len(letters) == len(deliveries):
            return events
        worst = dict.fromkeys(deliveries, Event.DONE)  # an answer is sent when all parts of it are
        for (delivery, _), event in zip(letters, events, strict=True):
            worst[delivery] = max(worst[delivery], event, key=_FROM_DONE_TO_WORST.index)
        return list(worst.values())

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
            sender = self._senders[url] = entry_collector(
                partial(self._calls.send, url),
                self._group,
                wait_s=self._settings.flush_ms / 1000,
                max_bytes=self._settings.max_batch_bytes,
                weigh=lambda letter: letter.size_bytes,
            )
        events = await sender.submit(letters)
        if sender.is_idle and self._senders.get(url) is sender:
            del self._senders[url]  # jobs may name many queues: keep only those in use
        return events


def _replies_of(delivery: Delivery) -> tuple[str, ...]:
    if not delivery.replies:
        delivery.replies = (error_reply(delivery, delivery.error or _UNDELIVERABLE),)
    return delivery.replies
