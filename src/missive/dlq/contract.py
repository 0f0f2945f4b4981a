"""What the engine and the operations ask of a place for dead letters.

A sink takes dead letters and nothing else; a store can be asked, and replayed from. All methods block. A sink is
called from one thread at a time, a store from several.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from missive.dlq.record import Record, Status, plain_reason

if TYPE_CHECKING:
    from missive.messages import Message


DLQ: TypeAlias = "Sink | str | MutableMapping[str, tuple[Message, str]] | None"
"""A place for dead letters: a store, the URL of one, or a plain dict for tests."""


class Sink(ABC):
    """Takes dead letters. `durable` says whether one that `put` returned from survives this process.

    Where `rejects` is true nothing is put: the engine rejects the message, for the transport's own dead letter
    facility, and refuses a transport without one at start.
    """

    durable = False
    rejects = False

    @abstractmethod
    def put(self, records: Sequence[Record]) -> None:
        """Keep records, all or none; durable when it returns. Raises `StoreError`.

        A record whose `id` or `identity` is there already joins that one's history.
        """

    def diagnose(self) -> Sequence[str]:
        """Return what of its settings may lose dead letters, in words for `missive doctor`. Raises `StoreError`."""
        return ()

    def close(self) -> None:  # noqa: B027 - most have nothing open
        """Close what is open. Idempotent."""


class DictSink(Sink):
    """A plain dict, for tests: `{message_id: (message, reason)}`."""

    def __init__(self, mapping: MutableMapping[str, tuple[Message, str]]) -> None:
        self.mapping = mapping

    def put(self, records: Sequence[Record]) -> None:
        """Keep each message; another message under a taken id gets `id#2`, `id#3` …."""
        for record in records:
            message = record.message
            if message is None:  # only what a test client and an engine make reaches a sink
                continue
            name, number = message.message_id, 1
            while (there := self.mapping.get(name)) is not None and there[0].raw_data != message.raw_data:
                number += 1
                name = f"{message.message_id}#{number}"
            self.mapping[name] = (message, plain_reason(record))


@dataclass(frozen=True, slots=True)
class Query:
    """Which records. Every condition that is given must hold."""

    ids: tuple[str, ...] = ()
    group: str | None = None
    service: str | None = None
    reason: str | None = None
    handler: str | None = None
    replay: str | None = None
    statuses: tuple[Status, ...] = ()
    label: str | None = None
    error: str | None = None
    """The exception's type."""
    topic: str | None = None
    source: str | None = None
    """The URL or the destination that it came from."""
    text: tuple[str, ...] = ()
    """Words that are each in the label, the handler, the exception's type or what is public; case does not count."""
    min_attempts: int | None = None
    max_attempts: int | None = None
    first_after: float | None = None
    """Failed first after this time, in seconds since 1970; the others accordingly."""
    first_before: float | None = None
    last_after: float | None = None
    last_before: float | None = None
    without: tuple[Query, ...] = ()
    """Records of which one of these holds are left out."""

    @property
    def shared(self) -> Query:
        """That part of it which is the same for all records of a group, service and status."""
        names = ("group", "service", "reason", "handler", "statuses", "label", "error")
        without = tuple(query for query in self.without if query.is_of_groups)
        return Query(**{name: getattr(self, name) for name in names}, without=without)

    @property
    def is_of_groups(self) -> bool:
        """Whether all records of a group, service and status are meant, or none."""
        return self == self.shared


@dataclass(frozen=True, slots=True)
class Group:
    """Records that failed in the same way."""

    fingerprint: str
    reason: str
    label: str | None
    handler: str | None
    error_type: str | None
    status: str
    count: int
    first_at: float
    """When one of them was first seen, whatever became of that one."""
    last_at: float
    sample_id: str
    """The one that failed last."""
    trend: tuple[int, ...] = ()
    """How many failed on each of the last seven days in UTC, today the last."""
    regressed: bool = False
    """Whether it was resolved before, and has failed since."""


DAY = 86400
DAYS = 7


class Note(NamedTuple):
    """What an operator wrote to a record, or did with it."""

    at: float
    by: str
    text: str


@dataclass(frozen=True, slots=True)
class Replay:
    """Records chosen at one moment to be run again, who chose them, and what became of them."""

    id: str
    by: str
    query: str
    """What they were chosen by, in words."""
    by_command: bool = False
    """Whether the command that started it runs them: running workers leave them alone until it is over."""
    canary: int | None = None
    """How many must be resolved before the others begin."""
    rate: str | None = None
    until_failures: int | None = None
    """After how many failures it stops."""
    status: str = "running"
    """`running`, `done`, `stopped` or `cancelled`; those of running workers are `running` while one is queued."""
    created_at: float = 0.0
    paced_until: float = 0.0
    """Up to when its rate is used up, in running workers; in seconds since 1970, as all times."""
    finished_at: float | None = None
    total: int = 0
    queued: int = 0
    resolved: int = 0
    discarded: int = 0
    failed: int = 0
    """Failed again, or waiting to be tried again."""
    left: int = 0
    """Not taken up, and dead as before: `resume` goes on with them."""

    @property
    def is_paced(self) -> bool:
        """Whether it goes on bit by bit in running workers: its canaries first, at its rate, while few fail."""
        return self.canary is not None or self.rate is not None or self.until_failures is not None

    def with_counts(self, *, queued: int, resolved: int, discarded: int, failed: int, left: int) -> Replay:
        """Return it with what became of its records; one of running workers is done when nothing is left to do."""
        counted = replace(self, queued=queued, resolved=resolved, discarded=discarded, failed=failed, left=left)
        goes_on = self.by_command or queued or (self.is_paced and left)
        return counted if goes_on or counted.status != "running" else replace(counted, status="done")

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would have it."""
        return {name: getattr(self, name) for name in self.__slots__}


class RecordLease(NamedTuple):
    """A record taken up for replay: settled only under this token."""

    record: Record
    token: str


class Store(Sink):
    """A sink that can be asked, and replayed from."""

    durable = True

    @abstractmethod
    def get(self, record_id: str) -> Record | None:
        """Return a record, or None."""

    @abstractmethod
    def query(self, query: Query, *, limit: int | None = None, offset: int = 0) -> Iterator[Record]:
        """Yield records, newest first."""

    @abstractmethod
    def ids(self, query: Query) -> list[str]:
        """Return the ids of records, oldest first: a snapshot."""

    @abstractmethod
    def services(self, query: Query) -> list[str]:
        """Return whose records they are."""

    @abstractmethod
    def count(self, query: Query) -> int:
        """Return how many records there are."""

    @abstractmethod
    def groups(self, query: Query, *, limit: int | None = None, offset: int = 0) -> list[Group]:
        """Return the groups, largest first."""

    @abstractmethod
    def stats(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return counts by service, status and reason, with the oldest of each."""

    @abstractmethod
    def start_replay(self, replay: Replay, ids: Collection[str]) -> int:
        """Keep a replay and which records are its; returns how many are dead, or queued and not taken up.

        They are dead, and wait for `queue_remaining`. With very many it is done in steps that let others write, and the
        last one keeps the replay: cut short before, there is none.
        """

    @abstractmethod
    def queue_remaining(self, replay: str, limit: int | None = None) -> int:
        """Queue what is left of a replay that runs, oldest first; returns how many. Others are not its any more."""

    @abstractmethod
    def advance(self) -> None:
        """Let replays go on that running workers run, as far as `pacing.pace` says of each."""

    @abstractmethod
    def set_replay(self, replay: str, status: str, *, by_command: bool | None = None) -> None:
        """Change a replay's status; unless it is `running`, what is queued and not taken up is dead again."""

    @abstractmethod
    def replays(self, replay: str | None = None, *, limit: int | None = None, offset: int = 0) -> list[Replay]:
        """Return replays with their counts, newest first; or the one."""

    @abstractmethod
    def lease_records(
        self, service: str, token: str, limit: int, lease: float, replay: str | None = None
    ) -> list[RecordLease]:
        """Take up records of a service for `lease` seconds: queued and parked ones that are due, the oldest due first.

        Of a lane only the first, by id, is taken up: the next when that one is parked or queued no more. Those of a
        replay that a command runs are taken up only for that replay; what one that was stopped or cancelled has left
        queued, as somebody had it then, is dead instead.
        """

    @abstractmethod
    def next_due(self, service: str) -> float | None:
        """Return when the next record may be claimed, in seconds since 1970; None where there is none."""

    @abstractmethod
    def lanes(self, service: str) -> dict[str, int]:
        """Return how many records are parked, or queued, in each lane."""

    @abstractmethod
    def extend_leases(self, ids: Collection[str], token: str, lease: float) -> set[str]:
        """Keep claimed records for `lease` more seconds; returns those still ours."""

    @abstractmethod
    def resolve(self, ids: Collection[str], token: str, status: Status, by: str, why: str | None = None) -> set[str]:
        """Close claimed records as resolved or discarded; returns those that were still ours."""

    @abstractmethod
    def release_records(self, ids: Collection[str], token: str, due: float | None = None) -> set[str]:
        """Give claimed records back, as they were, due at `due` if given; returns those that were still ours."""

    @abstractmethod
    def discard(self, ids: Collection[str], by: str, why: str | None = None) -> int:
        """Give records up that are dead, or queued and not taken up; returns how many."""

    @abstractmethod
    def restore(self, ids: Collection[str], by: str) -> int:
        """Make records dead again that were resolved or discarded, and note that; returns how many.

        They are of no replay any more.
        """

    @abstractmethod
    def edit(self, record_id: str, version: int, changed: Record, by: str) -> None:
        """Keep `changed`, which is a new dead record made of one, and discard that one, both or nothing.

        Raises `StoreConflict` where the one is not of this version any more, or is not dead.
        """

    @abstractmethod
    def expire(self, limit: int = 1000) -> int:
        """Delete at most `limit` records that were closed longer ago than the store keeps them; returns how many."""

    @abstractmethod
    def note(self, ids: Collection[str], by: str, text: str) -> int:
        """Write a note to records; returns how many are there."""

    @abstractmethod
    def notes(self, record_id: str) -> list[Note]:
        """Return what was noted of a record, oldest first."""

    @abstractmethod
    def purge(self, query: Query, limit: int = 1000) -> int:
        """Delete at most `limit` records, in one transaction; returns how many.

        They are resolved or discarded, or dead where the query says that status: what waits to be taken up stays.
        """

    @abstractmethod
    def import_(self, records: Sequence[Record]) -> int:
        """Keep those records whose ids are not there; returns how many."""

    @abstractmethod
    def load_checkpoint(self, service: str, source: str) -> str | None:
        """Return what `remember` kept, or None."""

    @abstractmethod
    def save_checkpoint(self, service: str, source: str, value: str) -> None:
        """Keep a few bytes for a service and source, durably."""

    @abstractmethod
    def count_attempts(self, service: str, spent: Mapping[str, int]) -> None:
        """Keep how many attempts were spent on messages that stay unsettled at their source, by identity."""

    @abstractmethod
    def attempts(self, service: str, identities: Collection[str]) -> dict[str, int]:
        """Return what `count_attempts` kept of some."""

    @abstractmethod
    def drop_attempts(self, service: str, identities: Collection[str]) -> None:
        """Forget what `count_attempts` kept of some."""
