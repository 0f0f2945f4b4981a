"""Records: the stored form of dead letters and parked messages."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any

import msgspec

from missive.app.terms import HandlerRoute
from missive.dlq.contract import RecordLease
from missive.dlq.record import HEADER_FIELDS, Attempt, Origin, Record, Status, fingerprint
from missive.engine.job import Job
from missive.engine.workers.decision import Decision
from missive.messages import Message
from missive.outcome import Reason
from missive.public import PublicPlace, public_values
from missive.routing.explain import explain
from missive.routing.router import Misrouted
from missive.transport import Delivery
from missive.version import VERSION

LEASE = 60.0
"""Record lease, in seconds."""
_MAX_EVALUATED, _MIN_EVALUATED = 1000, 3
"""Number of matchers that are evaluated to explain one dead letter."""
_MAX_READ = 300_000
"""Bytes that may be read to explain one dead letter. Each evaluated matcher may read the whole body."""
_MAX_EXPLAINED = 10
"""Number of near misses in a record. `missive explain` lists them all."""

_RUNTIME = {
    "host": socket.gethostname(),
    "python": platform.python_version(),
    "missive": VERSION,
}


def make_record(
    job: Job,
    *,
    service: str,
    routes: Sequence[HandlerRoute],
    public: Collection[PublicPlace],
    now: float,
    new_id: Callable[[], str],
) -> Record:
    """Return the record of a job that is a dead letter or is parked; `public` is for a job without a handler.

    Raises TypeError for another job.
    """
    decision, delivery, message = job.decision, job.delivery, job.message
    if decision is None or (decision.reason is None and job.parked is None):
        raise TypeError(f"{job!r} has no record: it is neither a dead letter nor parked")
    reason, parked, failure = decision.reason or Reason.failed, job.parked, decision.failure
    handler = None if job.route is None else job.route.name
    misrouted = decision.reason in {Reason.unmatched, Reason.ambiguous, Reason.unreadable} and job.route is None
    waits, adopted = (False, None) if parked is None else (not parked.ran, parked.adopted)
    sha256 = hashlib.sha256(delivery.body).hexdigest()
    return Record(
        id=_id_of(job) or new_id(),
        service=service,
        reason=reason,
        status=Status.dead if parked is None else Status.parked,
        due=None if parked is None else parked.due,
        lane=None if parked is None else parked.lane,
        **(_of_stored(delivery) if adopted is None else _of_adopted(adopted, now)),
        identity=identity(job.source.adapter.identity, delivery, sha256),
        body=delivery.body,
        headers=tuple((str(_storable(name)), value) for name, value in message.headers.pairs),
        origin=_origin(job),
        first_at=now,
        last_at=now,
        fingerprint=fingerprint(reason, decision.label, handler, failure),
        label=_storable(decision.label),
        detail=_storable(decision.detail),
        handler=handler,
        candidates=decision.candidates,
        explanation=_explanation(routes, decision, message, public) if misrouted else None,
        message_id=_storable(delivery.producer_id or delivery.native_id),
        topic=_storable(delivery.topic),
        key=delivery.key,
        content_type=_storable(delivery.content_type),
        sent_at=delivery.timestamp,
        sha256=sha256,
        public=public_values(message, public if job.route is None else job.route.terms.public),
        error_type=None if failure is None else failure.type,
        error_chain=() if failure is None else tuple(failure.to_json()),
        error_text=None if failure is None else _storable(failure.text),
        attempts=0 if waits and not job.history else 1,
        history=job.history if waits and job.history else (*job.history, _last_attempt(job, decision, reason, now)),
        runtime={**_RUNTIME, "pid": os.getpid()},
        **{field: _header(message, name) for name, field in HEADER_FIELDS.items()},  # type: ignore[arg-type]
        may_join=adopted is None and (delivery.position is not None or delivery.redelivered),
        waits=waits,
        message=message,
    )


def _of_adopted(adopted: RecordLease, now: float) -> dict[str, Any]:
    return {"lease_token": adopted.token, "leased_until": now + LEASE}


def _of_stored(delivery: Delivery) -> dict[str, Any]:
    """Return the lease of a stored record, and the handler that an operator assigned, unless the handler is missing."""
    if (stored := delivery.record) is None:
        return {}
    return {"lease_token": delivery.token, "assigned": None if stored.is_orphan else stored.assigned}


def _id_of(job: Job) -> str | None:
    """Return the id of a job that has a record already, or that the store adopts."""
    adopted = None if job.parked is None else job.parked.adopted
    return job.delivery.record_id if adopted is None else adopted.record.id


def _origin(job: Job) -> Origin:
    adapter, delivery = job.source.adapter, job.delivery
    native_id = _storable(delivery.native_id)
    return Origin(adapter.transport, adapter.destination, adapter.url, delivery.lane, delivery.position, native_id)


def _last_attempt(job: Job, decision: Decision, reason: Reason, now: float) -> Attempt:
    return Attempt(
        at=now,
        reason=str(reason if job.parked is None else decision.outcome),
        attempt=job.attempt,
        handler=None if job.route is None else job.route.name,
        error=None if decision.failure is None else decision.failure.type,
        host=_RUNTIME["host"],
        pid=os.getpid(),
    )


def bare_record(job: Job, *, service: str, now: float, new_id: Callable[[], str], detail: str) -> Record:
    """Return a minimal record of a job, after `make_record` raised: the body, the origin and the reason."""
    delivery, adapter = job.delivery, job.source.adapter
    reason = Reason.failed if job.decision is None or job.decision.reason is None else job.decision.reason
    return Record(
        id=_id_of(job) or new_id(),
        service=service,
        reason=reason,
        status=Status.dead if job.parked is None else Status.parked,
        due=None if job.parked is None else job.parked.due,
        lane=None if job.parked is None else job.parked.lane,
        **_of_stored(delivery),
        identity=None,
        body=delivery.body,
        headers=(),
        origin=Origin(adapter.transport, adapter.destination, adapter.url, delivery.lane, delivery.position),
        first_at=now,
        last_at=now,
        fingerprint=fingerprint(reason, None, None, None),
        detail=_storable(detail),
        sha256=hashlib.sha256(delivery.body).hexdigest(),
        history=(Attempt(at=now, reason=str(reason), attempt=job.attempt),),
        runtime={**_RUNTIME, "pid": os.getpid()},
        message=job.message,
    )


def identity(url: str, delivery: Delivery, sha256: str) -> str | None:
    """Return a digest that the deliveries of one message share, or None when the transport identifies no message.

    The digest covers the position in the source and the body. Without a position, it covers the producer's id and the
    body; it then joins deliveries only when the transport marks them as redelivered (`Record.may_join`). A shared id
    alone never joins deliveries.
    """
    if delivery.position is not None:
        key = f"{url}\0{delivery.lane or ''}\0{delivery.position}\0{sha256}"
    elif delivery.producer_id is not None:
        key = f"{url}\0id\0{delivery.producer_id}\0{sha256}"
    else:
        return None
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _explanation(
    routes: Sequence[HandlerRoute], decision: Decision, message: Message, public: Collection[PublicPlace]
) -> dict[str, object]:
    """Explain a routing decision, within limits: each matcher may read the whole body."""
    names = frozenset(decision.candidates)
    concerned = (route for route in routes if not names or route.name in names)
    most = max(_MIN_EVALUATED, min(_MAX_EVALUATED, _MAX_READ // (len(message.raw_data) + 1)))
    misrouted = Misrouted(decision.reason or Reason.unmatched, decision.candidates)
    explanation = explain(tuple(islice(concerned, most)), message, public, misrouted)
    return msgspec.structs.replace(explanation, considered=explanation.considered[:_MAX_EXPLAINED]).to_dict()


def _header(message: Message, name: str) -> str | None:
    """Return the first value of a header, or None."""
    value = message.headers.get(name)
    return _storable(value[0] if isinstance(value, tuple) else value)


def _storable(text: str | bytes | None) -> str | None:
    """Return text that UTF-8 can encode. The text of an exception may contain lone surrogates, which are escaped."""
    if text is None:
        return None
    if isinstance(text, bytes):
        return text.decode("utf-8", "backslashreplace")
    return text.encode("utf-8", "backslashreplace").decode()
