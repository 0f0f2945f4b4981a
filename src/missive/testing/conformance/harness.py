"""What the author of an adapter fills in: how to publish, how to look, and how to hurt the broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from missive.adapters.base import Adapter
from missive.app.processor import Processor
from missive.engine.intake.source import CREDIT


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as a bare client publishes it; what a transport cannot carry is left out."""

    body: bytes
    headers: Sequence[tuple[str, str | bytes]] = ()
    key: str | None = None
    message_id: str | None = None
    timestamp: float | None = None
    """In whole seconds since 1970."""


class Harness(ABC):
    """One transport under test, with a fresh queue or topic of its own; made anew for each case.

    The methods block, and are called on threads of the kit's, one at a time.
    """

    name: ClassVar[str]
    """The row's name in the table, such as `rabbitmq (quorum)`."""
    preserves: ClassVar[frozenset[str]] = frozenset()
    """What of a message arrives: of `key`, `timestamp`, `producer_id`, `native_id`."""
    headers: ClassVar[frozenset[str]] = frozenset()
    """What headers may be: of `text`, `bytes` (values that are not UTF-8), `duplicate` (a name twice)."""
    line_based: ClassVar[bool] = False
    """Whether a message is a line, so that no body has a newline."""
    largest_body: ClassVar[int] = 1_000_000
    """The size in bytes of the largest body that is tried."""
    broker: ClassVar[bool] = False
    """Whether there is a broker that can be killed: `kill` and `start` work."""
    credentials: ClassVar[bool] = False
    """Whether one logs in: `adapter` then takes `password`."""
    creatable: ClassVar[bool] = True
    """Whether the source can be missing, and made with `create` later."""
    redelivery_seconds: ClassVar[float] = 10.0
    """Within so many seconds what was unsettled comes again after its session was closed: the lease, and some more."""
    lease: ClassVar[float] = 1.0
    """The lease that the kit asks for where there is one that can be set, in seconds."""
    reads_once: ClassVar[bool] = False
    """Whether what was read cannot be had again, as from a pipe."""

    ends: ClassVar[bool] = False
    """Whether a session ends with the last message there is, as at the end of a file."""

    groups: ClassVar[bool] = False
    """Whether several groups each get all messages: `adapter` then takes `group`, which is another one."""

    trims: ClassVar[bool] = False
    """Whether what was not read can be deleted, and the position be lost: `trim` and `overrun` work."""

    read_ahead: ClassVar[int] = 0
    """How many messages a session may have read that nobody fetched, so that they wait at the transport no more."""
    duplicates: ClassVar[int] = CREDIT.items
    """How many messages may be handled twice for each fault: what is in flight at most, which is the engine's credit,
    or a prefetch that is smaller."""
    forgotten_settlements: ClassVar[int] = 0
    """How many settlements that it took the broker may forget when it is killed, because it writes them later."""
    handover_duplicates: ClassVar[int] = 0
    """How many messages may be handled twice when a lane goes to another consumer in good order."""
    lanes: int = 1
    """How many lanes the source is to have, where they are one consumer's alone; set before `create`."""

    @abstractmethod
    def adapter(self, processor: Processor[Any], **options: Any) -> Adapter:
        """Make an adapter for this case's source.

        The kit may give options:
        `address`: a host and port to connect to in place of the broker's (a fault proxy's);
        `password`: to log in with, in place of the right one;
        `group`: consume as another group, which is made here and begins with the first message;
        `handover`: seconds that handlers have when a lane goes to another consumer, where lanes do.
        """

    @abstractmethod
    def create(self) -> None:
        """Make the queue, topic or file. Called once, before anything is published."""

    @abstractmethod
    def publish(self, messages: Sequence[Sent]) -> None:
        """Publish with a bare client, and return when the broker has confirmed them."""

    def leave_gap(self) -> bool:
        """Leave a gap in the positions, such as an aborted transaction does; False where there can be none."""
        return False

    def remaining(self) -> int | None:
        """Return how many messages the source still holds for us, delivered or not; None where nobody can tell."""
        return None

    @property
    def address(self) -> tuple[str, int] | None:
        """The broker's host and port, for the fault proxy; None where there is no connection."""
        return None

    @property
    def proxy_port(self) -> int:
        """The port of 127.0.0.1 for the proxy, where clients go on to what the broker names as its own; 0 for any."""
        return 0

    @property
    def url(self) -> str | None:
        """The URL of this case's source for `missive run --from`; None where a worker process cannot reach it."""
        return None

    def versions(self) -> str:
        """Return the versions of broker and client library, for the table."""
        return ""

    def kill(self) -> None:
        """Send the broker SIGKILL, and return when it is gone."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the broker in good order, and return when it is gone; killed where nothing else is said."""
        self.kill()

    def start(self) -> None:
        """Start the broker again, with its data, and return when it answers."""
        raise NotImplementedError

    def trim(self, position: int) -> None:
        """Delete all messages before a position, read or not."""
        raise NotImplementedError

    def overrun(self, position: int) -> None:
        """Commit a position that is beyond the end, as if the rest had been truncated."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - most leave nothing
        """Remove what the case made."""
