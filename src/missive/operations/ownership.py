"""Ownership of records: their service, their handler, and lanes whose first record cannot run."""

from __future__ import annotations

from missive.app.checks import checked_name
from missive.dlq.contract import Query, Store
from missive.dlq.record import Record, Status
from missive.errors import RegistrationError, StoreConflict, UsageError
from missive.operations.selection import find_record

_WAITING = (Status.queued, Status.parked)


def check_adoption(store: Store, old: str, new: str) -> int:
    """Return the number of records that `adopt_service` would move. Raise as it does."""
    _check_name(new, "a service")
    if old == new:
        raise UsageError(f"{old} and {new} are the same service")
    known = sorted({*store.services(Query()), *store.applications()})
    count = store.count(Query(service=old))
    if not count and old not in known:
        there = f"it has {', '.join(known)}" if known else "it is empty"
        raise UsageError(f"the store has nothing of the service {old}: {there}")
    return count


def adopt_service(store: Store, old: str, new: str) -> int:
    """Move all that the store holds for a service to another name, and return the number of records.

    Stop the workers of both services first: workers of the old name file more records under that name, and workers
    that run under the new name do not know the lanes that they adopt.

    Raise `UsageError` when the store has nothing of the old service, and for a new name that is empty or too long.
    """
    check_adoption(store, old, new)
    return store.adopt(old, new)


def reroute_record(store: Store, record_id: str, handler: str, by: str) -> Record:
    """Let a handler run a record from now on, whatever its matcher, and return the record.

    A waiting record runs when it is due, and a record that waited for its handler at once. A dead record runs when it
    is replayed.

    Raise `UsageError` for an unknown id or a name that is empty or too long, and `StoreConflict` for a closed record
    and for a record that a worker handles now.
    """
    record = find_record(store, record_id)
    _check_name(handler, "a handler")
    if not store.reroute(record.id, handler, by):
        raise _conflict(store, record.id, "only dead, queued and parked ones can be rerouted")
    return find_record(store, record.id)


def unstick_record(store: Store, record_id: str, by: str) -> Record:
    """Make a parked or queued record dead that cannot run, so that its lane continues, and return the record.

    Raise `UsageError` for an unknown id. Raise `StoreConflict` for a record that does not wait, that is not the first
    one of its lane, or that a worker handles now.
    """
    record = find_record(store, record_id)
    if not store.unstick(record.id, by):
        raise _conflict(store, record.id, "only parked and queued ones can be stuck")
    return find_record(store, record.id)


def _check_name(name: str, what: str) -> None:
    try:
        checked_name(name, what)
    except RegistrationError as error:
        complaint = str(error)
    else:
        return
    raise UsageError(complaint)


def _conflict(store: Store, record_id: str, rule: str) -> StoreConflict:
    """Return the reason why a store did not change a record."""
    record = find_record(store, record_id)
    if record.status not in _WAITING:
        return StoreConflict(f"dead letter {record_id} is {record.status}: {rule}")
    head = store.head_of_lane(record_id)
    if head not in (None, record_id):
        return StoreConflict(f"dead letter {record_id} waits behind {head} in its lane: missive dlq unstick {head}")
    return StoreConflict(
        f"a worker handles dead letter {record_id} now: try again when it is done, or a minute after the death of the"
        " worker"
    )
