"""The consumer and its thread: it polls, whatever handlers do, and serves what the session asks of it in between."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from missive.adapters.kafka import errors as troubles
from missive.adapters.threaded import ClientThread
from missive.errors import Fatal, Transient
from missive.transport import Delivery, Host, SettlementResult, Watermark

if TYPE_CHECKING:
    from missive.adapters.kafka.adapter import KafkaAdapter

_POLL = 0.02
"""Seconds that the thread waits for messages before it looks at its mailbox."""
_AT_ONCE = 500
_MOST_ITEMS, _MOST_BYTES = 1500, 16 * 1024 * 1024
"""So much may be handed over and not fetched, and so much be kept of paused lanes; then the client is not polled."""
_RESUME = 0.5
_PATIENCE = 0.5
"""Seconds without room before the client is told to pause. It throws away what it has read ahead, and takes about a
second to begin again: so a lane that is only paused for a moment is not paused there."""
_REPLY = 15.0

logger = logging.getLogger("missive")


class Lost(Protocol):
    """Told on the engine's loop that lanes are about to go to somebody else, or are gone."""

    def __call__(self, lanes: Collection[str], *, may_commit: bool) -> Coroutine[Any, Any, None]:
        """Return when they may."""
        ...


class Lane:
    """One partition, from when it was assigned until it is taken away."""

    __slots__ = ("name", "partition", "prefix", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.name = f"{topic}/{partition}"
        self.prefix = f"{self.name}/"


class KafkaConsumer(ClientThread):
    """A `confluent_kafka.Consumer` on the thread that owns it. Only `took`, `lives` and `leave` are called on the loop.

    A call of the client's from another thread would wait until `poll` returns, and while partitions are revoked for
    ever: so the mailbox is served inside the callback too.
    """

    def __init__(
        self,
        adapter: KafkaAdapter,
        host: Host,
        *,
        arrived: Callable[[list[Delivery], int], None],
        lost: Lost,
        died: Callable[[Exception], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.client: Any = None
        self._adapter = adapter
        self._host = host
        self._arrived = arrived
        self._lost = lost
        self._died = died
        self._loop = loop
        self._error: Exception | None = None
        self._polling = False
        self._leaving = False
        self._stopped = False
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._kept: dict[str, list[Delivery]] = {}
        """What came of lanes that the engine has paused, and is handed over when they are resumed."""
        self._kept_items = self._kept_bytes = 0
        self._held: set[str] = set()
        """Of these, lanes that the client has paused too."""
        self._given_items = self._given_bytes = 0
        self._taken_items = self._taken_bytes = 0
        self._full_since: float | None = None
        self._throttled = False
        """Whether all lanes are paused, because there is no room."""
        self._said = ""
        self._down = False
        """Whether it was said that no broker can be reached, and nothing came since."""
        self._inside = False
        """Whether the client is in a call that waits for the engine."""
        self._left: Future[None] = Future()
        self._left.set_running_or_notify_cancel()  # so that whoever waits for it cannot cancel it
        super().__init__("missive-kafka")

    # On the engine's loop

    def took(self, items: int, size: int) -> None:
        """Note that so much of what was handed over was fetched, or dropped."""
        self._taken_items += items
        self._taken_bytes += size
        if self._full_since is not None:
            self.wake()

    def lives(self) -> Mapping[str, Lane]:
        """Return the lanes that are assigned now: what is asked of one that was lost since is refused."""
        return {lane.name: lane for lane in list(self._lanes.values())}

    async def leave(self) -> None:
        """Leave the group, once the client is in no call. Idempotent."""
        self._leaving = True
        self.wake()
        await asyncio.wrap_future(self._left)

    # The thread

    def serve_mail(self) -> None:
        """Make the calls that wait, and leave if that is asked for: not inside a call of the client, which frees it."""
        super().serve_mail()
        if self._leaving and not self._inside and not self._left.done():
            self._leave()

    def pump(self) -> None:
        """Poll once, or wait for mail while there is nothing to poll."""
        if not self._polling:
            self._mail.wait()
            return
        try:
            self._poll()
        except KafkaException as error:
            self._die(self._trouble(error.args[0]) or self._failed(error.args[0]))
        except (Fatal, Transient) as error:
            self._die(error)
        except Exception as error:  # noqa: BLE001 - a callback that failed must not end the thread silently
            self._die(Transient(f"{self._adapter.url}: polling failed with {type(error).__name__}"))

    def _poll(self) -> None:
        if not self._has_room():
            if not self._throttled:
                self._mail.wait(_POLL)
                return
            message = self.client.poll(_POLL)
            messages = [message]  # of a lane that was not paused in time, if any
        else:
            message = self.client.poll(_POLL)
            messages = [message]
            if message is not None:
                messages += self.client.consume(_AT_ONCE - 1, 0)
        if message is not None:
            self._hand_over(messages)

    def _has_room(self) -> bool:
        """Tell whether to poll; pause what is in the way when there was no room for a while."""
        share = _RESUME if self._throttled else 1.0
        items, size = self._given_items - self._taken_items, self._given_bytes - self._taken_bytes
        full = items >= _MOST_ITEMS * share or size >= _MOST_BYTES * share
        crowded = self._kept_items >= _MOST_ITEMS or self._kept_bytes >= _MOST_BYTES
        if not full and self._throttled:
            self._throttled = False
            self._go_on({lane.name for lane in self._lanes.values()} - self._held)
        if not full and not crowded:
            self._full_since = None
            return True
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < _PATIENCE:
            return False
        if crowded and not full:
            self._hold()
            return True
        if not self._throttled:
            self._throttled = True
            self.client.pause(self.client.assignment())
        return False

    def _hold(self) -> None:
        """Let the client pause the lanes that are paused: what is kept of them is enough."""
        lanes = set(self._kept) - self._held
        self._held |= lanes
        self._kept_items = self._kept_bytes = 0
        self._full_since = None
        if lanes:
            self.client.pause(self._partitions(lanes))

    def _hand_over(self, messages: Sequence[Any]) -> None:
        lanes, kept = self._lanes, self._kept
        deliveries: list[Delivery] = []
        gone: list[tuple[str, int]] = []
        size = 0
        for message in messages:
            if message.error() is not None:
                if message.error().code() in troubles.RESET:
                    gone.append((message.topic(), message.partition()))
                else:
                    self._on_message_error(message)
                continue
            lane = lanes.get((message.topic(), message.partition()))
            if lane is None:  # it was taken away while this waited in the client's queue
                continue
            body = message.value()
            body = b"" if body is None else body
            offset, key, headers = message.offset(), message.key(), message.headers()
            delivery = Delivery(
                body,
                headers=() if headers is None else _headers(headers),
                native_id=f"{lane.prefix}{offset}",
                topic=lane.topic,
                key=None if key is None else _text(key),
                timestamp=message.timestamp()[1] / 1000,
                lane=lane.name,
                position=offset,
                native=message,
            )
            if kept and lane.name in kept:
                kept[lane.name].append(delivery)
                if lane.name not in self._held:
                    self._kept_items += 1
                    self._kept_bytes += len(body)
            else:
                size += len(body)
                deliveries.append(delivery)
        self._give(deliveries, size)
        for topic, partition in gone:  # behind what came before it
            self._reset(topic, partition)

    def _give(self, deliveries: list[Delivery], size: int) -> None:
        if deliveries:
            self._down = False
            self._given_items += len(deliveries)
            self._given_bytes += size
            self._loop.call_soon_threadsafe(self._arrived, deliveries, size)

    def _serve(self, until: Future[Any]) -> None:
        """Serve the mailbox until something is done, or the session closes, inside a call of the client's."""
        until.add_done_callback(lambda _: self.wake())
        self._inside = True
        try:
            while not until.done() and not self._leaving:
                self._mail.clear()
                self.serve_mail()
                if not until.done() and not self._leaving:
                    self._mail.wait(_POLL)
        finally:
            self._inside = False

    def _wait_for(self, asked: Coroutine[Any, Any, None]) -> None:
        """Wait for the engine, and serve it meanwhile: it commits what is done. One that closes needs no answer."""
        future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        self._serve(future)
        if not future.done():
            future.cancel()
            return
        future.result()

    # Its life

    def open(self, seconds: float) -> None:
        """Make the client, and see that the topics are there. Raises `Fatal` and `Transient`."""
        settings = self._adapter.configuration(self._host.service)
        refused = ""
        try:
            self.client = Consumer({**settings, "error_cb": self._on_error, "logger": troubles.quiet_logger()})
        except (KafkaException, ValueError, TypeError) as error:
            refused = troubles.setting_of(error)
        if refused:
            raise Fatal(f"{self._adapter.url}: {refused}")
        self._look_for_topics(seconds)

    def _look_for_topics(self, seconds: float) -> None:
        url, topics = self._adapter.url, self._adapter.topics
        deadline = time.monotonic() + seconds
        there: Mapping[str, Any] | None = None
        while there is None:
            self.client.poll(0)  # so that errors are heard
            if self._error is not None:
                raise self._error
            if (left := deadline - time.monotonic()) <= 0:
                raise Transient(f"{url}: no broker answers")
            there = self._topics(topics[0] if len(topics) == 1 else None, min(left, 1.0))
        for topic in topics:
            found = there.get(topic)
            if found is None or found.error is not None:
                trouble = None if found is None else self._trouble(found.error)
                raise trouble or Transient(f"{url}: there is no topic {topic}")

    def _topics(self, topic: str | None, seconds: float) -> Mapping[str, Any] | None:
        try:
            topics: Mapping[str, Any] = self.client.list_topics(topic, timeout=seconds).topics
        except KafkaException as caught:
            error = caught.args[0]
        else:
            return topics
        if (trouble := self._trouble(error)) is not None:
            raise trouble
        return None

    def join(self) -> None:
        """Join the group, and poll from now on."""
        wanted = list(self._adapter.topics) if self._adapter.pattern is None else [self._adapter.pattern]
        try:
            self.client.subscribe(wanted, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        except KafkaException as caught:
            error = caught.args[0]
        else:
            self._polling = True
            return
        raise self._trouble(error) or Fatal(f"{self._adapter.url}: {self._adapter.destination} is not accepted")

    def stop(self) -> None:
        """Consume no more, and stay in the group."""
        self._stopped = True
        if self._polling:
            self.client.pause(self.client.assignment())

    def _leave(self) -> None:
        self._polling = False
        try:
            if self.client is not None:
                client, self.client = self.client, None
                client.close()
        except Exception as error:  # noqa: BLE001 - whoever closes gets it
            self._left.set_exception(error)
        else:
            self._left.set_result(None)

    # Lanes that come and go; called by the client, inside poll

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        starts = partitions
        if partitions and not self._leaving:
            committed = self._committed(consumer, partitions)
            marks: dict[str, Watermark | None] = {}
            for one in committed:
                lane = self._lanes[one.topic, one.partition] = Lane(one.topic, one.partition)
                begun = one.offset >= 0
                marks[lane.name] = Watermark(one.offset - 1, (one.metadata or "").encode()) if begun else None
            self._wait_for(_as_coroutine(self._host.lanes_gained(marks)))
            if not self._leaving:
                starts = self._starts(consumer, committed)
        if self._adapter.cooperative:
            consumer.incremental_assign(starts)
        else:
            consumer.assign(starts)
        if starts and (self._throttled or self._stopped):
            consumer.pause(starts)

    @staticmethod
    def _committed(consumer: Any, partitions: Sequence[Any]) -> Sequence[Any]:
        """Return what the group committed; the broker may take a moment until it can tell."""
        deadline = time.monotonic() + _REPLY
        while True:
            try:
                committed: Sequence[Any] = consumer.committed(partitions, timeout=_REPLY)
                error = next((one.error for one in committed if one.error is not None), None)
            except KafkaException as caught:
                error = caught.args[0]
            if error is None:
                return committed
            if error.code() not in troubles.NOT_YET or time.monotonic() > deadline:
                raise KafkaException(error)
            time.sleep(_POLL)

    def _starts(self, consumer: Any, committed: Sequence[Any]) -> list[Any]:
        """Return where each partition begins: after what is committed, or where the adapter says."""
        start = self._adapter.start
        fresh = [one for one in committed if one.offset < 0]
        if isinstance(start, float):
            asked = [TopicPartition(one.topic, one.partition, int(start * 1000)) for one in fresh]
            found = consumer.offsets_for_times(asked, timeout=_REPLY) if asked else []
            if (error := next((one.error for one in found if one.error is not None), None)) is not None:
                raise KafkaException(error)
            fresh = [TopicPartition(o.topic, o.partition, o.offset if o.offset >= 0 else OFFSET_END) for o in found]
        else:
            at = OFFSET_BEGINNING if start == "earliest" else OFFSET_END
            fresh = [TopicPartition(one.topic, one.partition, at) for one in fresh]
        return [*(TopicPartition(o.topic, o.partition, o.offset) for o in committed if o.offset >= 0), *fresh]

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        self._let_go(consumer, partitions, may_commit=True)

    def _on_lost(self, consumer: Any, partitions: list[Any]) -> None:
        self._let_go(consumer, partitions, may_commit=False)

    def _let_go(self, consumer: Any, partitions: list[Any], *, may_commit: bool) -> None:
        names = [lane.name for p in partitions if (lane := self._lanes.get((p.topic, p.partition))) is not None]
        if not may_commit:  # what is asked to be committed of them from now on is refused
            self._forget(partitions)
        if names and not self._leaving:
            self._wait_for(self._lost(names, may_commit=may_commit))
        self._forget(partitions)
        if self._adapter.cooperative:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _forget(self, partitions: Sequence[Any]) -> None:
        for one in partitions:
            lane = self._lanes.pop((one.topic, one.partition), None)
            if lane is not None:
                self._unkeep(lane.name)
                self._held.discard(lane.name)

    # What is asked by the session

    def commit(
        self, marks: Mapping[str | None, Watermark], lives: Mapping[str, Lane]
    ) -> Mapping[str | None, SettlementResult]:
        """Commit marks of lanes, but for those that were lost since this was asked for."""
        results: dict[str | None, SettlementResult] = {}
        offsets = []
        for name, mark in marks.items():
            lane = lives.get(name or "")
            if lane is None or not self._has(lane) or self.client is None:
                results[name] = SettlementResult.fenced
                continue
            offset = TopicPartition(lane.topic, lane.partition, mark.position + 1)
            if mark.acked_beyond:
                offset = TopicPartition(
                    lane.topic, lane.partition, mark.position + 1, mark.acked_beyond.decode("ascii")
                )
            offsets.append(offset)
        if not offsets:
            return results
        error = None
        try:
            committed = self.client.commit(offsets=offsets, asynchronous=False)
        except KafkaException as caught:
            error, committed = caught.args[0], offsets
        for one in committed:
            results[f"{one.topic}/{one.partition}"] = self._result(error or one.error)
        return results

    def _has(self, lane: Lane | None) -> bool:
        """Tell whether a lane was not taken away since, also when it is back."""
        return lane is not None and self._lanes.get((lane.topic, lane.partition)) is lane

    def _result(self, error: Any) -> SettlementResult:
        if error is None:
            return SettlementResult.confirmed
        if error.code() in troubles.FENCED:
            return SettlementResult.fenced
        if (trouble := self._trouble(error)) is not None:
            raise trouble
        return SettlementResult.unknown if error.code() in troubles.UNANSWERED else SettlementResult.failed

    def pause(self, lanes: set[str], lives: Mapping[str, Lane]) -> None:
        """Hand over no more of these lanes, but for those that were lost since: nobody would resume them."""
        for name in lanes:
            if self._has(lives.get(name)):
                self._kept.setdefault(name, [])

    def resume(self, lanes: set[str]) -> None:
        """Hand over what was kept of these lanes, and what comes."""
        for lane in lanes:
            kept = self._unkeep(lane)
            self._give(kept, sum(len(delivery.body) for delivery in kept))
        self._go_on(lanes & self._held)
        self._held -= lanes

    def _unkeep(self, lane: str) -> list[Delivery]:
        kept = self._kept.pop(lane, [])
        if lane not in self._held:
            self._kept_items -= len(kept)
            self._kept_bytes -= sum(len(delivery.body) for delivery in kept)
        return kept

    def _go_on(self, lanes: set[str]) -> None:
        if lanes and self.client is not None and not self._throttled and not self._stopped:
            self.client.resume(self._partitions(lanes))

    def _partitions(self, lanes: Collection[str]) -> list[Any]:
        return [TopicPartition(lane.topic, lane.partition) for lane in self._lanes.values() if lane.name in lanes]

    def lag(self) -> int | None:
        """Return how many messages of this member's partitions were not consumed yet; None while it has none."""
        if not self._lanes or self.client is None:
            return None
        lag = 0
        for at in self.client.position([TopicPartition(*where) for where in self._lanes]):
            known = self.client.get_watermark_offsets(at, cached=True)
            if known is not None and at.offset >= 0:
                lag += max(0, known[1] - at.offset)
        return lag

    # What goes wrong

    def _on_error(self, error: Any) -> None:
        """Hear what the client says that concerns no message."""
        trouble = self._trouble(error)
        if trouble is not None or error.fatal():
            self._die(trouble or self._failed(error))
        elif error.code() == troubles.ALL_DOWN and not self._leaving and not self._down:
            self._down = True
            logger.warning("%s: no broker can be reached; trying again", self._adapter.url)

    def _on_message_error(self, message: Any) -> None:
        error = message.error()
        if (trouble := self._trouble(error)) is not None:
            self._die(trouble)
        else:
            self._say(f"{self._adapter.url}: {troubles.in_words(error, message.topic())}; trying again")

    def _reset(self, topic: str, partition: int) -> None:
        """Go on where there are messages again, and say aloud that those in between are lost, or come once more."""
        if (lane := self._lanes.get((topic, partition))) is None:
            return
        here = TopicPartition(topic, partition)
        at = self.client.position([here])[0].offset
        if at < 0:
            at = self._committed(self.client, [here])[0].offset
        if at < 0:  # there was none yet: where to begin could not be found
            self._begin_at(self._starts(self.client, [here])[0])
            return
        low, high = self.client.get_watermark_offsets(here, timeout=_REPLY)
        truncated = at >= low
        to = min(at, high) if truncated else low
        what = "the log ends before it: it was truncated" if truncated else "what was there was deleted unread"
        url = self._adapter.url
        logger.error("%s: the position of %s, %d, is gone (%s); going on at %d", url, lane.name, at, what, to)
        if not truncated or self._take_up_again(lane, to):
            self._begin_at(TopicPartition(topic, partition, to))

    def _take_up_again(self, lane: Lane, to: int) -> bool:
        """Take a lane up as if it were new, where its log ends now; False when the session is closing.

        What was committed beyond it, and what was marked there as done, says nothing of the messages that come there.
        """
        place = TopicPartition(lane.topic, lane.partition, to)
        if not self._leaving:
            self._wait_for(self._lost([lane.name], may_commit=True))
        if self._leaving:
            return False
        self._forget([place])
        again = self._lanes[lane.topic, lane.partition] = Lane(lane.topic, lane.partition)
        self.client.commit(offsets=[place], asynchronous=False)
        self._wait_for(_as_coroutine(self._host.lanes_gained({again.name: Watermark(to - 1)})))
        return not self._leaving

    def _begin_at(self, place: Any) -> None:
        """Consume a partition from elsewhere; it cannot be sought, for it stopped. What was paused stays so."""
        if self._adapter.cooperative:
            self.client.incremental_unassign([place])
            self.client.incremental_assign([place])
        else:
            others = [
                one for one in self.client.assignment() if (one.topic, one.partition) != (place.topic, place.partition)
            ]
            self.client.assign([*self.client.position(others), place])
        paused = self._throttled or self._stopped
        if lanes := {lane.name for lane in self._lanes.values()} if paused else self._held:
            self.client.pause(self._partitions(lanes))

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            logger.warning(line)

    def _die(self, error: Exception) -> None:
        if self._error is None and not self._leaving:
            self._error = error
            self._polling = False
            self._loop.call_soon_threadsafe(self._died, error)

    def _trouble(self, error: Any) -> Exception | None:
        return troubles.translated(error, self._adapter)

    def _failed(self, error: Any) -> Transient:
        return Transient(f"{self._adapter.url}: the client failed ({error.name()})")


async def _as_coroutine(asked: Awaitable[None]) -> None:
    await asked


def _text(value: bytes | str) -> str | bytes:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, str | bytes]]:
    return [(name, "" if value is None else _text(value)) for name, value in headers]
