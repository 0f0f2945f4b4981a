"""The part of the contract of stores that decides which application, and which handler, runs a record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection


class RecordOwnership(ABC):
    """The part of a store that knows its applications, and that moves records to other services and handlers."""

    on_server = True
    """Whether the store is on a server, where other applications can open it unnoticed."""

    @abstractmethod
    def register(self, service: str, target: str | None) -> dict[str, str | None]:
        """Note that an application opened the store, and return the other ones: their targets, by service.

        `target` identifies an application without an explicit name, and is None for one with. An application without
        an explicit name is not noted when there are others.
        """

    @abstractmethod
    def applications(self) -> dict[str, str | None]:
        """Return the applications that `register` noted: their targets, by service."""

    @abstractmethod
    def adopt(self, old: str, new: str) -> int:
        """Move all that the store holds for the service `old` to `new`; return the number of records.

        These are the records, the attempts, the checkpoints and the claims of `once=`. Where both services have a
        value, the one of `new` stays, and the larger number of attempts. Interrupted calls can be repeated.
        """

    @abstractmethod
    def leave_orphans(self, ids: Collection[str], token: str, due: float) -> set[str]:
        """End leases of records whose handler is not registered, and make the records due at `due`.

        The first call for a record sets `orphaned_at`. Return the ids whose lease still had this token.
        """

    @abstractmethod
    def reroute(self, record_id: str, handler: str, by: str) -> bool:
        """Assign a handler to a record that is dead, or waits and is not leased; return whether that was so.

        An orphan becomes due at once. Adds a note.
        """

    @abstractmethod
    def unstick(self, record_id: str, by: str) -> bool:
        """Make a queued or parked record dead, so that its lane continues; return whether that was possible.

        The record must be the first of its lane and must not be leased. It leaves its replay. Adds a note.
        """

    @abstractmethod
    def head_of_lane(self, record_id: str) -> str | None:
        """Return the id of the first record in the lane of a record, or None for a record without a lane."""
