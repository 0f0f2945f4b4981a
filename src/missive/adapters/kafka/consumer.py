"""The consumer's thread: poll the client, turn messages into deliveries, and serve the session's calls in between."""

from __future__ import annotations

import asyncio
import logging
import operator
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException

from missive.adapters.kafka import client as clients
from missive.adapters.kafka import errors, positions
from missive.adapters.kafka.assignment import Assignment, LanesDeleted, LanesLost
from missive.adapters.kafka.beginnings import Beginnings
from missive.adapters.kafka.flow import FlowControl
from missive.adapters.kafka.lanes import Lane, Lanes
from missive.adapters.kafka.settings import Settings
from missive.adapters.kafka.topics import TopicIds
from missive.adapters.threaded import ClientThread
from missive.errors import Fatal, Transient
from missive.messages import text_or_bytes
from missive.transport import Delivery, Host, SettlementResult, Watermark

_POLL_SECONDS = 0.02
"""Time that the thread waits for messages before it checks its mailbox, in seconds."""
_CHUNK = 500
"""Maximum number of messages in one call of the client."""

_read_headers = operator.methodcaller("headers")
"""Returns the headers of a message.

For a name that is not UTF-8, the client sets an exception and returns a broken list nevertheless. Python raises the
exception for a call from C, such as this one, but not for a call in Python code that it has optimised.
"""
_UNREADABLE = "the client cannot decode the name of a header"

logger = logging.getLogger("missive")


class KafkaConsumer(ClientThread):
    """A `confluent_kafka.Consumer` and the thread that owns it.

    The engine's loop calls only `leave`, `snapshot` and `flow.fetched` directly. Other calls pass through the mailbox.

    A call of the client on another thread waits until `poll` returns. During a revocation it would wait forever, so the
    thread also serves its mailbox inside the client's callbacks.
    """

    def __init__(
        self,
        settings: Settings,
        host: Host,
        beginnings: Beginnings,
        *,
        arrived: Callable[[list[Delivery], int], None],
        lost: LanesLost,
        deleted: LanesDeleted,
        failed: Callable[[Exception], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.client: Any = None
        self.leaving = False
        self._settings = settings
        self._host = host
        self._arrived = arrived
        self._failed = failed
        self._loop = loop
        self._lanes = Lanes()
        self.flow = FlowControl(self._lanes, wake=self.wake)
        self._beginnings = beginnings
        self._topic_ids = TopicIds(settings, host.service)
        self._assignment = Assignment(
            settings, host, self._lanes, self.flow, self._topic_ids, beginnings, engine=self, lost=lost, deleted=deleted
        )
        self._error: Exception | None = None
        self._polling = False
        self._last_warning = ""
        self._tls_failed = False
        self._brokers_down = False
        """Whether the log reports that no broker can be reached, and no message has arrived since."""
        self._in_callback = False
        """Whether the client waits in a callback for the engine."""
        self._left: Future[None] = Future()
        self._left.set_running_or_notify_cancel()  # so that a cancelled `leave` does not cancel the future
        super().__init__("missive-kafka")

    # Called on the engine's loop

    def snapshot(self) -> Mapping[str, Lane]:
        """Return the current lanes, for `commit` and `pause` to detect lanes that this member loses meanwhile."""
        return self._lanes.snapshot()

    async def leave(self) -> None:
        """Leave the group as soon as the client is in no call. Idempotent."""
        self.leaving = True
        self.wake()
        await asyncio.wrap_future(self._left)

    # The thread

    def serve_mail(self) -> None:
        """Run the calls in the mailbox, then leave the group on request.

        Leaving frees the client, so it waits until the client's callbacks have returned.
        """
        super().serve_mail()
        if self.leaving and not self._in_callback and not self._left.done():
            self._leave()

    def pump(self) -> None:
        """Poll once. Before the group is joined and after a failure, wait for mail instead."""
        if not self._polling:
            self._mail.wait()
            return
        try:
            self._poll()
        except KafkaException as caught:
            error = caught.args[0]
            self._fail(errors.fatal_error(error, self._settings) or errors.client_failed(error, self._settings))
        except (Fatal, Transient) as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a failed callback must not end the thread silently
            self._fail(Transient(f"{self._settings.url}: polling failed with {type(error).__name__}"))

    def _poll(self) -> None:
        self._assignment.watch(self.client)
        has_room = self.flow.has_room(self.client)
        if not has_room and not self.flow.throttled:
            self._mail.wait(_POLL_SECONDS)
            return
        # Without room all lanes are paused. The poll serves callbacks, and may return a message from before the pause.
        message = self.client.poll(_POLL_SECONDS)
        if message is None:
            return
        messages = [message]
        if has_room:
            messages += self.client.consume(_CHUNK - 1, 0)
        self._hand_over(messages)

    def _hand_over(self, messages: Sequence[Any]) -> None:
        """Deliver messages to the session, or to the buffers of paused lanes."""
        find_lane, buffers = self._lanes.get, self.flow.buffers
        deliveries: list[Delivery] = []
        lost_positions: list[tuple[str, int]] = []
        size = 0
        for message in messages:
            if message.error() is not None:
                if message.error().code() in errors.POSITION_LOST:
                    lost_positions.append((message.topic(), message.partition()))
                else:
                    self._on_message_error(message)
                continue
            lane = find_lane((message.topic(), message.partition()))
            if lane is None:  # the member lost the lane while the message waited in the client's queue
                continue
            body = message.value()
            body = b"" if body is None else body
            offset, key, unreadable = message.offset(), message.key(), None
            try:
                headers = _read_headers(message)
            except Exception:  # noqa: BLE001 - the client refuses all headers when a name is not UTF-8
                headers, unreadable = None, _UNREADABLE
                message.set_headers([])  # the client keeps a broken list, which crashes its reader
            delivery = Delivery(
                body,
                headers=() if headers is None else _headers(headers),
                native_id=f"{lane.prefix}{offset}",
                topic=lane.topic,
                key=None if key is None else text_or_bytes(key),
                timestamp=message.timestamp()[1] / 1000,
                lane=lane.name,
                position=offset,
                native=message,
                unreadable=unreadable,
            )
            if buffers and lane.name in buffers:
                self.flow.buffer(lane.name, delivery)
            else:
                size += len(body)
                deliveries.append(delivery)
        self._deliver(deliveries, size)
        for topic, partition in lost_positions:  # after the messages that came before the error
            self._assignment.recover(self.client, topic, partition)

    def _deliver(self, deliveries: list[Delivery], size: int) -> None:
        if deliveries:
            self._brokers_down = False
            self.flow.delivered(len(deliveries), size)
            self._loop.call_soon_threadsafe(self._arrived, deliveries, size)

    def wait_for(self, call: Coroutine[Any, Any, None]) -> None:
        """Run a call on the engine's loop from a callback of the client. Serve the mailbox until the call has finished.

        The engine commits during the call. Cancel the call when the session closes.
        """
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        future.add_done_callback(lambda _: self.wake())
        self._in_callback = True
        try:
            while not future.done() and not self.leaving:
                self._mail.clear()
                self.serve_mail()
                if not future.done() and not self.leaving:
                    self._mail.wait(_POLL_SECONDS)
        finally:
            self._in_callback = False
        if not future.done():
            future.cancel()
            return
        future.result()

    # Called by the session through the mailbox

    def open(self, seconds: float) -> None:
        """Create the client and check that the topics exist. Raise `Fatal` and `Transient`."""
        self.client = clients.create(self._settings, self._host.service, self._on_error)
        try:
            clients.check_topics(
                self.client,
                self._settings,
                seconds,
                error=lambda: self._error,
                found=self._note_beginnings,
            )
        except Transient:
            if self._tls_failed:
                raise errors.tls_failed(self._settings) from None
            raise

    def _note_beginnings(self, topics: Mapping[str, Any]) -> None:
        try:
            self._beginnings.note(self.client, self._settings, topics)
        except KafkaException as caught:
            error = caught.args[0]
        else:
            return
        raise errors.fatal_error(error, self._settings) or errors.client_failed(error, self._settings)

    def join(self) -> None:
        """Join the group, and start to poll. Raise `Fatal` for topics or patterns that the client refuses."""
        settings, assignment = self._settings, self._assignment
        topics = list(settings.topics) if settings.pattern is None else [settings.pattern]
        try:
            self.client.subscribe(
                topics, on_assign=assignment.on_assign, on_revoke=assignment.on_revoke, on_lost=assignment.on_lost
            )
        except KafkaException as caught:
            error = caught.args[0]
        else:
            self._polling = True
            return
        raise errors.fatal_error(error, settings) or Fatal(
            f"{settings.url}: the client does not accept {settings.destination}. Check topic= or pattern="
        )

    def commit(
        self, watermarks: Mapping[str | None, Watermark], snapshot: Mapping[str, Lane]
    ) -> Mapping[str | None, SettlementResult]:
        """Commit watermarks, except for the lanes of `snapshot` that this member lost meanwhile: these are fenced."""
        self._assignment.supersede(watermarks)
        return positions.commit(self.client, self._lanes, watermarks, snapshot, self._settings)

    def first_positions(self, snapshot: Mapping[str, Lane], lanes: Collection[str]) -> Mapping[str, int]:
        """Return the first offsets of lanes, as far as the broker tells them."""
        return positions.first_positions(self.client, [snapshot[name] for name in lanes if name in snapshot])

    def resume(self, lanes: set[str]) -> None:
        """Deliver the buffered messages of paused lanes, and continue with new messages."""
        for lane in lanes:
            self._deliver(*self.flow.unbuffer(lane))
        self.flow.resume(self.client, lanes)

    def lag(self) -> int | None:
        """Return the number of unconsumed messages in this member's partitions; None without partitions."""
        return positions.lag(self.client, self._lanes)

    def stop(self) -> None:
        """Stop the intake, but stay in the group."""
        self.flow.stop(self.client if self._polling else None)

    def _leave(self) -> None:
        self._polling = False
        try:
            if self.client is not None:
                closing, self.client = self.client, None
                closing.close()
            self._topic_ids.close()
        except Exception as error:  # noqa: BLE001 - `leave` raises it
            self._left.set_exception(error)
        else:
            self._left.set_result(None)

    # Errors

    def _on_error(self, error: Any) -> None:
        """Handle an error that the client reports outside of messages."""
        fatal = errors.fatal_error(error, self._settings)
        if fatal is not None or error.fatal():
            self._fail(fatal or errors.client_failed(error, self._settings))
        elif errors.is_tls_failure(error):
            self._tls_failed = True
        elif error.code() == errors.ALL_BROKERS_DOWN and not self.leaving and not self._brokers_down:
            self._brokers_down = True
            logger.warning("%s: no broker can be reached; trying again", self._settings.url)

    def _on_message_error(self, message: Any) -> None:
        error = message.error()
        if (fatal := errors.fatal_error(error, self._settings)) is not None:
            self._fail(fatal)
            return
        line = f"{self._settings.url}: {errors.describe(error, message.topic())}; trying again"
        if line != self._last_warning:
            self._last_warning = line
            logger.warning(line)

    def _fail(self, error: Exception) -> None:
        """End the session with its first error."""
        if self._error is None and not self.leaving:
            self._error = error
            self._polling = False
            self._loop.call_soon_threadsafe(self._failed, error)


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, str | bytes]]:
    return [(name, "" if value is None else text_or_bytes(value)) for name, value in headers]
