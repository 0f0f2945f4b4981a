"""Flow control: limits on the messages between the client and the engine, and paused lanes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from missive.adapters.kafka.lanes import Lane, Lanes
from missive.transport import Delivery

_MAX_ITEMS, _MAX_BYTES = 1500, 16 * 1024 * 1024
"""Limits for delivered messages that the engine did not fetch yet, and also for buffered messages of paused lanes.

The consumer stops polling at either limit.
"""
_RESUME_SHARE = 0.5
"""Share of the limits below which the client resumes all lanes."""
_PATIENCE = 0.5
"""Time without room before the client pauses lanes, in seconds.

A client that pauses a lane drops the messages that it has read ahead, and needs about a second to read ahead again.
Lanes with a short pause therefore stay active in the client.
"""


class FlowControl:
    """Limits between the client and the engine. Runs on the consumer's thread, except for `fetched`.

    The messages of a lane that the engine pauses go to a buffer. The client pauses the lane when the buffers are full.
    The client pauses all lanes when too many delivered messages wait for the engine.
    """

    def __init__(self, lanes: Lanes, *, wake: Callable[[], None]) -> None:
        self.buffers: dict[str, list[Delivery]] = {}
        """Messages of lanes that the engine has paused, by lane."""
        self.throttled = False
        """Whether the client has paused all lanes, because too many messages wait for the engine."""
        self._lanes = lanes
        self._wake = wake
        self._stopped = False
        self._client_paused: set[str] = set()
        """The lanes in `buffers` that the client has paused too. Their buffered messages do not count."""
        self._buffered_items = self._buffered_bytes = 0
        self._delivered_items = self._delivered_bytes = 0
        self._fetched_items = self._fetched_bytes = 0
        self._full_since: float | None = None

    def fetched(self, items: int, size: int) -> None:
        """Count messages that the engine fetched or the session dropped. Called on the engine's loop."""
        self._fetched_items += items
        self._fetched_bytes += size
        if self._full_since is not None:
            self._wake()

    def delivered(self, items: int, size: int) -> None:
        """Count messages that the consumer delivered to the session."""
        self._delivered_items += items
        self._delivered_bytes += size

    def has_room(self, client: Any) -> bool:
        """Return whether to poll for messages. Pause or resume lanes in the client as necessary."""
        share = _RESUME_SHARE if self.throttled else 1.0
        items = self._delivered_items - self._fetched_items
        size = self._delivered_bytes - self._fetched_bytes
        deliveries_full = items >= _MAX_ITEMS * share or size >= _MAX_BYTES * share
        buffers_full = self._buffered_items >= _MAX_ITEMS or self._buffered_bytes >= _MAX_BYTES
        if not deliveries_full and self.throttled:
            self.throttled = False
            self._resume_in_client(client, self._lanes.names() - self._client_paused)
        if not deliveries_full and not buffers_full:
            self._full_since = None
            return True
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < _PATIENCE:
            return False
        if not deliveries_full:
            self._pause_buffered(client)
            return True
        if not self.throttled:
            self.throttled = True
            client.pause(client.assignment())
        return False

    def pause(self, names: Collection[str], snapshot: Mapping[str, Lane]) -> None:
        """Buffer the messages of lanes, except lanes lost since `snapshot`, which the engine never resumes."""
        for name in names:
            if self._lanes.owns(snapshot.get(name)):
                self.buffers.setdefault(name, [])

    def buffer(self, name: str, delivery: Delivery) -> None:
        """Store a message of a paused lane."""
        self.buffers[name].append(delivery)
        if name not in self._client_paused:
            self._buffered_items += 1
            self._buffered_bytes += len(delivery.body)

    def unbuffer(self, name: str) -> tuple[list[Delivery], int]:
        """End the buffer of a lane. Return its messages and their size in bytes."""
        deliveries = self.buffers.pop(name, [])
        size = sum(len(delivery.body) for delivery in deliveries)
        if name not in self._client_paused:
            self._buffered_items -= len(deliveries)
            self._buffered_bytes -= size
        return deliveries, size

    def resume(self, client: Any, names: set[str]) -> None:
        """Resume lanes in the client, if it has paused them."""
        self._resume_in_client(client, names & self._client_paused)
        self._client_paused -= names

    def forget(self, name: str) -> None:
        """Drop the buffer of a lost lane."""
        self.unbuffer(name)
        self._client_paused.discard(name)

    def stop(self, client: Any) -> None:
        """Pause all lanes for the rest of the session. `client` is None when it consumes nothing."""
        self._stopped = True
        if client is not None:
            client.pause(client.assignment())

    def pause_new(self, client: Any, partitions: list[Any]) -> None:
        """Pause newly assigned partitions while all lanes are paused."""
        if partitions and (self.throttled or self._stopped):
            client.pause(partitions)

    def restore(self, client: Any) -> None:
        """Pause the lanes again that an assignment call of the client has resumed."""
        names = self._lanes.names() if self.throttled or self._stopped else self._client_paused
        if names:
            client.pause(self._lanes.partitions(names))

    def _pause_buffered(self, client: Any) -> None:
        """Pause the lanes with a buffer in the client. Their buffers stop counting towards the limits."""
        names = set(self.buffers) - self._client_paused
        self._client_paused |= names
        self._buffered_items = self._buffered_bytes = 0
        self._full_since = None
        if names:
            client.pause(self._lanes.partitions(names))

    def _resume_in_client(self, client: Any, names: Collection[str]) -> None:
        if names and client is not None and not self.throttled and not self._stopped:
            client.resume(self._lanes.partitions(names))
