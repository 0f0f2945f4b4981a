"""The contract of a place for dead letters, with the values that its methods exchange.

A sink only accepts dead letters. A store also lists, changes, leases and replays them. All methods block. Missive calls
a sink from one thread at a time, and a store from several threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from missive.dlq.ownership import RecordOwnership
from missive.dlq.record import Record, Status, plain_reason

if TYPE_CHECKING:
    from missive.messages import Message


DLQ: TypeAlias = "Sink | str | MutableMapping[str, tuple[Message, str]] | None"
"""A place for dead letters: a sink or store, the URL of a store, or a plain dict for tests."""

DAY = 86400
"""Length of a day, in seconds."""
DAYS = 7
"""Number of days in the trend of a group."""


class Sink(ABC):
    """A place that accepts dead letters.

    `durable` states whether a record survives the process once `put` has returned. A sink with `rejects` stores
    nothing: the engine rejects the message instead, so that the transport's own dead letter facility receives it. The
    engine refuses a transport without such a facility at start.
    """

    durable = False
    rejects = False
    patience: float = 60.0
    """Maximum time that one request to a server may take, in seconds; then its method raises `StoreError`. An engine
    sets 10 seconds while it runs."""

    @abstractmethod
    def put(self, records: Sequence[Record]) -> Mapping[str, str] | None:
        """Store all of `records`, or none; a durable sink has them on disk when the method returns.

        A record whose id is already stored joins the history of the stored record. So does a record with `may_join`
        whose identity is already stored. Return the ids of the stored records that others joined, by the ids of these
        others; None for none. Raises `StoreError`.
        """

    def diagnose(self) -> Sequence[str]:
        """Describe each setting that may lose dead letters, for `missive doctor`. Raises `StoreError`."""
        return ()

    def close(self) -> None:  # noqa: B027 - most sinks have nothing open
        """Release connections and files. Idempotent."""


class DictSink(Sink):
    """A plain dict, for tests: `{message_id: (message, reason)}`."""

    def __init__(self, mapping: MutableMapping[str, tuple[Message, str]]) -> None:
        self.mapping = mapping

    def put(self, records: Sequence[Record]) -> None:
        """Store each message; another message under a taken id gets `id#2`, `id#3` …."""
        for record in records:
            message = record.message
            if message is None:  # only records from an engine or a test client carry their message
                continue
            name, number = message.message_id, 1
            while (stored := self.mapping.get(name)) is not None and stored[0].raw_data != message.raw_data:
                number += 1
                name = f"{message.message_id}#{number}"
            self.mapping[name] = (message, plain_reason(record))


@dataclass(frozen=True, slots=True)
class Query:
    """A selection of records. Every condition that is set must hold."""

    ids: tuple[str, ...] = ()
    group: str | None = None
    """The fingerprint."""
    service: str | None = None
    reason: str | None = None
    handler: str | None = None
    replay: str | None = None
    statuses: tuple[Status, ...] = ()
    label: str | None = None
    error: str | None = None
    """The type of the exception."""
    topic: str | None = None
    source: str | None = None
    """The URL or the destination of the source."""
    text: tuple[str, ...] = ()
    """Words. Each occurs in the label, the handler, the exception's type or the public values, in any case."""
    min_attempts: int | None = None
    max_attempts: int | None = None
    first_after: float | None = None
    """The first failure is later than this time, in seconds since 1970. The next three fields are similar."""
    first_before: float | None = None
    last_after: float | None = None
    last_before: float | None = None
    without: tuple[Query, ...] = ()
    """Queries whose records are excluded."""

    @property
    def group_part(self) -> Query:
        """The conditions on values that all records with one group, service and status share."""
        names = ("group", "service", "reason", "handler", "statuses", "label", "error")
        without = tuple(query for query in self.without if query.selects_groups)
        return Query(**{name: getattr(self, name) for name in names}, without=without)

    @property
    def selects_groups(self) -> bool:
        """Whether the query selects either all or none of the records with one group, service and status."""
        return self == self.group_part


@dataclass(frozen=True, slots=True)
class Group:
    """Records of one status that failed in the same way."""

    fingerprint: str
    reason: str
    label: str | None
    handler: str | None
    error_type: str | None
    status: str
    count: int
    first_at: float
    """First failure in the group, in seconds since 1970. A record that has left the group still counts."""
    last_at: float
    """Latest failure of a record that is in the group now, in seconds since 1970."""
    sample_id: str
    """The id of the record with the latest failure."""
    trend: tuple[int, ...] = ()
    """Number of failures on each of the last seven days (UTC). The last one is today."""
    regressed: bool = False
    """Whether the group has failed again since one of its records was resolved."""


class Note(NamedTuple):
    """A remark of an operator on a record, or the trace of an operator's action on the record."""

    at: float
    by: str
    text: str


@dataclass(frozen=True, slots=True)
class Replay:
    """A selection of records that run again, with its author, its pace and its results."""

    id: str
    by: str
    query: str
    """The selection in words."""
    by_command: bool = False
    """Whether the command that started the replay runs the records. Workers lease none of them until it ends."""
    canary: int | None = None
    """Number of records that must be resolved before the others start."""
    rate: str | None = None
    until_failures: int | None = None
    """Number of failures at which the replay stops."""
    status: str = "running"
    """`running`, `done`, `stopped` or `cancelled`."""
    created_at: float = 0.0
    paced_until: float = 0.0
    """Time up to which workers have used up the rate, in seconds since 1970."""
    finished_at: float | None = None
    total: int = 0
    queued: int = 0
    resolved: int = 0
    discarded: int = 0
    failed: int = 0
    """Number of records that failed again, including parked records."""
    left: int = 0
    """Number of records that did not start and are dead. `resume` continues with them."""

    @property
    def is_paced(self) -> bool:
        """Whether workers run the replay in steps, because it has canaries, a rate or a limit of failures."""
        return self.canary is not None or self.rate is not None or self.until_failures is not None

    def with_counts(self, *, queued: int, resolved: int, discarded: int, failed: int, left: int) -> Replay:
        """Return the replay with its results. A replay that workers run is `done` when no record remains to run."""
        counted = replace(self, queued=queued, resolved=resolved, discarded=discarded, failed=failed, left=left)
        continues = self.by_command or queued or (self.is_paced and left)
        return counted if continues or counted.status != "running" else replace(counted, status="done")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


class RecordLease(NamedTuple):
    """A record that a worker may run and settle while the token is valid."""

    record: Record
    token: str


class RecordQueries(ABC):
    """The part of a store that finds records."""

    @abstractmethod
    def get(self, record_id: str) -> Record | None:
        """Return a record, or None."""

    @abstractmethod
    def query(self, query: Query, *, limit: int | None = None, offset: int = 0) -> Iterator[Record]:
        """Yield the records of a query, newest failure first."""

    @abstractmethod
    def ids(self, query: Query) -> list[str]:
        """Return the ids of the records of a query, oldest first. The list is a snapshot."""

    def ids_like(self, part: str) -> list[str]:
        """Return the ids that begin or end with `part`. Three are enough when there are more."""
        return [one for one in self.ids(Query()) if one.startswith(part) or one.endswith(part)][:3]

    @abstractmethod
    def services(self, query: Query) -> list[str]:
        """Return the services that own records of a query, sorted."""

    @abstractmethod
    def count(self, query: Query) -> int:
        """Return the number of records of a query."""

    @abstractmethod
    def groups(self, query: Query, *, limit: int | None = None, offset: int = 0) -> list[Group]:
        """Return the groups of the records of a query, largest first."""

    @abstractmethod
    def stats(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return the count and the oldest failure for each service, status and reason."""


class RecordLeasing(ABC):
    """The part of a store from which workers lease queued and parked records."""

    @abstractmethod
    def lease_records(
        self, service: str, token: str, limit: int, lease: float, replay: str | None = None
    ) -> list[RecordLease]:
        """Lease up to `limit` queued or parked records of a service for `lease` seconds, the earliest due first.

        Only the first record of a lane, by id, can be leased. The next one can be leased when the first is neither
        queued nor parked. Records of a replay that a command runs are leased only with `replay`. A queued record of a
        replay that has been stopped or cancelled becomes dead instead.
        """

    @abstractmethod
    def next_due(self, service: str) -> float | None:
        """Return the time at which the next record can be leased, in seconds since 1970, or None."""

    def postpone(self, service: str, due: Mapping[str, float], limit: int, replay: str | None = None) -> int:  # noqa: ARG002 - see below
        """Let records that `lease_records` would lease wait until `due`, by the name of their handler.

        At most the first `limit` of them are read. Return how many were postponed. That is no lease and no change. A
        store that does not override this method postpones none; its records are leased and released instead.
        """
        return 0

    @abstractmethod
    def lanes(self, service: str) -> dict[str, int]:
        """Return the number of parked and queued records in each lane."""

    @abstractmethod
    def extend_leases(self, ids: Collection[str], token: str, lease: float) -> set[str]:
        """Let leases end `lease` seconds from now; return the ids whose lease still has this token."""

    @abstractmethod
    def resolve(self, ids: Collection[str], token: str, status: Status, by: str, why: str | None = None) -> set[str]:
        """Close leased records as resolved or discarded; return the ids whose lease still had this token."""

    @abstractmethod
    def release_records(self, ids: Collection[str], token: str, due: float | None = None) -> set[str]:
        """End leases, and make the records due at `due` if given; return the ids whose lease still had this token."""


class RecordChanges(ABC):
    """The part of a store that an operator changes records with."""

    @abstractmethod
    def discard(self, ids: Collection[str], by: str, why: str | None = None) -> int:
        """Close records as discarded if they are dead, or queued and not leased; return their number."""

    @abstractmethod
    def restore(self, ids: Collection[str], by: str) -> int:
        """Make resolved and discarded records dead again, with a note; return their number.

        The records leave their replays.
        """

    @abstractmethod
    def edit(self, record_id: str, version: int, changed: Record, by: str) -> None:
        """Store `changed`, a new dead record, and discard the record that it replaces, in one transaction.

        Raises `StoreConflict` if the replaced record has another version or is not dead.
        """

    @abstractmethod
    def note(self, ids: Collection[str], by: str, text: str) -> int:
        """Add a note to records; return the number of records found."""

    @abstractmethod
    def notes(self, record_id: str) -> list[Note]:
        """Return the notes on a record, oldest first."""

    @abstractmethod
    def expire(self, limit: int = 1000) -> int:
        """Delete up to `limit` closed records whose retention has ended; return their number."""

    @abstractmethod
    def purge(self, query: Query, limit: int = 1000) -> int:
        """Delete up to `limit` records of a query in one transaction; return their number.

        Resolved and discarded records are deleted. Dead records are deleted only if the query names that status, and
        queued and parked records never.
        """

    @abstractmethod
    def import_(self, records: Sequence[Record]) -> int:
        """Store the records whose ids are not stored yet; return their number."""


class ReplayControl(ABC):
    """The part of a store that starts, advances and ends replays."""

    @abstractmethod
    def start_replay(self, replay: Replay, ids: Collection[str]) -> int:
        """Store a replay and assign it the records among `ids` that are dead, or queued and not leased.

        Return the number of assigned records. They are dead until `queue_remaining` queues them. A large selection is
        assigned in several transactions, so that others can write in between. The last one stores the replay: an
        interrupted call stores no replay.
        """

    @abstractmethod
    def queue_remaining(self, replay: str, limit: int | None = None) -> int:
        """Queue dead records of a running replay that have not started, oldest first; return their number.

        Records that have joined another replay since are left alone.
        """

    @abstractmethod
    def advance(self) -> None:
        """Queue more records of each replay that workers run, as far as `pacing.pace` allows."""

    @abstractmethod
    def set_replay(self, replay: str, status: str, *, by_command: bool | None = None) -> None:
        """Set the status of a replay. If it is not `running`, queued records without a lease become dead again."""

    @abstractmethod
    def replays(self, replay: str | None = None, *, limit: int | None = None, offset: int = 0) -> list[Replay]:
        """Return all replays with their results, newest first, or only the one with the id `replay`."""


class SourceState(ABC):
    """The part of a store that remembers how far sources have been processed."""

    @abstractmethod
    def load_checkpoint(self, service: str, source: str) -> str | None:
        """Return the checkpoint that `save_checkpoint` stored, or None."""

    @abstractmethod
    def save_checkpoint(self, service: str, source: str, value: str) -> None:
        """Store a checkpoint of a few bytes for a service and a source, durably."""

    @abstractmethod
    def count_attempts(self, service: str, spent: Mapping[str, int]) -> None:
        """Store the number of attempts spent on messages that stay unsettled at their source, by identity."""

    @abstractmethod
    def attempts(self, service: str, identities: Collection[str]) -> dict[str, int]:
        """Return the numbers that `count_attempts` stored for some identities."""

    @abstractmethod
    def drop_attempts(self, service: str, identities: Collection[str]) -> None:
        """Delete the numbers that `count_attempts` stored for some identities."""


class Store(Sink, RecordQueries, RecordLeasing, RecordChanges, RecordOwnership, ReplayControl, SourceState):
    """A durable sink that can be searched, changed and replayed from."""

    durable = True
