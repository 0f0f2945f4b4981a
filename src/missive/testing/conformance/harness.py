"""The harness: the part of the suite that the author of an adapter supplies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.engine.limits import Limits


@dataclass(frozen=True, slots=True)
class Sent:
    """One message for a bare client to publish. The client leaves out fields that the transport cannot carry."""

    body: bytes
    headers: Sequence[tuple[str, str | bytes]] = ()
    key: str | None = None
    message_id: str | None = None
    timestamp: float | None = None
    """In whole seconds since 1970."""


class Harness(ABC):
    """One transport under test, with a fresh queue, topic or file. Each case has a harness of its own.

    The methods block. The kit calls them in threads, one at a time.
    """

    name: ClassVar[str]
    """Column in the table, such as `rabbitmq (quorum)`."""
    preserves: ClassVar[frozenset[str]] = frozenset()
    """The fields that arrive with a message: some of `key`, `timestamp`, `producer_id` and `native_id`."""
    headers: ClassVar[frozenset[str]] = frozenset()
    """The headers that arrive: some of `text`, `bytes` (values that are not UTF-8) and `duplicate` (repeated names)."""
    line_based: ClassVar[bool] = False
    """Whether a message is a line, so that a body cannot contain a newline."""
    largest_body: ClassVar[int] = 1_000_000
    """Size of the largest body that the suite publishes, in bytes."""
    broker: ClassVar[bool] = False
    """Whether the suite can kill and start a broker, with `kill` and `start`."""
    credentials: ClassVar[bool] = False
    """Whether the transport needs a login: `adapter` then accepts `password`."""
    creatable: ClassVar[bool] = True
    """Whether the source can be missing when the adapter connects, and be created later."""
    redelivery_seconds: ClassVar[float] = 10.0
    """Time limit for the redelivery of unsettled messages after their session closed, in seconds.

    It covers the lease and some delay.
    """
    lease: ClassVar[float] = 1.0
    """The lease to ask for where the lease can be set, in seconds."""
    reads_once: ClassVar[bool] = False
    """Whether a message can be read only once, as from a pipe."""
    ends: ClassVar[bool] = False
    """Whether a session ends after the last message, as at the end of a file."""
    groups: ClassVar[bool] = False
    """Whether several groups receive all messages each: `adapter` then accepts `group`, the name of a new group."""
    trims: ClassVar[bool] = False
    """Whether unread messages can be deleted and a position can be lost, with `trim` and `overrun`."""
    read_ahead: ClassVar[int] = 0
    """Number of messages that a session may read before they are fetched. Its lag does not count them."""
    duplicates: ClassVar[int] = Limits().items
    """Number of messages that may be handled twice after each fault: the engine's credit, or a smaller prefetch."""
    forgotten_settlements: ClassVar[int] = 0
    """Number of accepted settlements that a killed broker may forget, because it writes them later."""
    handover_duplicates: ClassVar[int] = 0
    """Number of messages that may be handled twice when a lane moves to another consumer in good order."""
    lanes: int = 1
    """Number of lanes to create, where one consumer owns a lane. The kit sets it before `create`."""

    @abstractmethod
    def adapter(self, processor: Processor[Any], **options: Any) -> Adapter:
        """Make an adapter for the source of this case.

        The kit may pass these options:

        - `address`: the host and port of a fault proxy, to connect to instead of the broker.
        - `password`: a password instead of the correct one.
        - `group`: the name of another group. Create it, so that it begins with the first message.
        - `max_body`: the largest body that is handled, in bytes. Every adapter accepts it.
        - `handover`: the time that handlers have when a lane moves to another consumer, in seconds.
        """

    @abstractmethod
    def create(self) -> None:
        """Create the queue, topic or file. The kit calls this once, before it publishes."""

    @abstractmethod
    def publish(self, messages: Sequence[Sent]) -> None:
        """Publish with a bare client, and return when the broker has confirmed the messages."""

    def publish_odd(self) -> Sequence[bytes]:
        """Publish messages with the oddest headers, keys, ids and timestamps that the broker accepts.

        Use a client that writes raw bytes: names and values that are not UTF-8, numbers out of range, nested and
        malformed values. Return the bodies; each message has its own. The default publishes odd bodies only, for a
        transport without headers and keys.
        """
        bodies = (b"\xff\xfe", b"\x00", b"\r", b'{"a', b"[" * 5000, '"\ud800"'.encode("utf-8", "surrogatepass"))
        self.publish([Sent(body) for body in bodies])
        return bodies

    def leave_gap(self) -> bool:
        """Leave a gap in the positions, such as an aborted transaction. Return False where no gap is possible."""
        return False

    def remaining(self) -> int | None:
        """Return how many messages the source holds for this consumer, delivered or not; None where unknown."""
        return None

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and port of the broker, for the fault proxy; None without a connection."""
        return None

    @property
    def proxy_port(self) -> int:
        """The port of the fault proxy on 127.0.0.1; 0 for any.

        Set it where a client follows the address that the broker advertises.
        """
        return 0

    @property
    def url(self) -> str | None:
        """The URL of the source for `missive run --from`; None where a worker process cannot reach the source."""
        return None

    def versions(self) -> str:
        """Return the versions of the broker and the client library, for the table."""
        return ""

    def kill(self) -> None:
        """Send the broker SIGKILL, and return when it is gone."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the broker in good order, and return when it is gone. The default kills it."""
        self.kill()

    def start(self) -> None:
        """Start the broker again with its data, and return when it answers."""
        raise NotImplementedError

    def trim(self, position: int) -> None:
        """Delete the messages before a position, read or not."""
        raise NotImplementedError

    def delete_all(self) -> bool:
        """Delete all messages of the source, delivered or not. Return False where that is not possible."""
        return False

    def destroy(self) -> bool:
        """Delete the queue with its messages, and create it again. Return False where that is not possible."""
        return False

    def overrun(self, position: int) -> None:
        """Commit a position beyond the end, as if the rest of the log had been truncated."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - most harnesses leave nothing behind
        """Remove the queue, topic or file of the case."""
