"""Filing: dead letters, and what is parked, become durable here, before anything is told to their transport."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import platform
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from missive.app.terms import HandlerRoute
from missive.dlq.contract import Sink, Store
from missive.dlq.failure import describe_exception
from missive.dlq.record import HEADER_FIELDS, Attempt, Origin, Record, Status, fingerprint
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.workers.decision import Decision
from missive.errors import NotSettled, StoreError
from missive.ids import after
from missive.messages import Message, StructuredMessage
from missive.outcome import Reason
from missive.routing.explain import explain
from missive.routing.router import Misrouted
from missive.transport import Disposition
from missive.version import VERSION

if TYPE_CHECKING:
    from missive.transport import Delivery

T = TypeVar("T")

_MOST_AT_ONCE = 500
_MOST_ASKED, _LEAST_ASKED = 1000, 3
_MOST_READ = 300_000
"""So many bytes may be read to explain one dead letter, where each matcher that is asked reads the whole body."""
_MOST_EXPLAINED = 10
"""A record keeps the nearest misses; `missive explain` says them all."""
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 5.0

logger = logging.getLogger("missive")


class DeadLetterWriter:
    """Writes would-be dead letters to the sink, in batches and on a thread of its own.

    `filed` is called with the jobs that are durable. While the sink cannot be written, `down` is true, the jobs wait
    unsettled, and writing is tried again with back-off. Without a sink, `refused` is called with a NotSettled.
    """

    def __init__(
        self,
        service: str,
        sink: Sink | None,
        runtime: Runtime,
        *,
        routes: Sequence[HandlerRoute],
        public: Collection[tuple[str, ...]],
        filed: Callable[[Sequence[Job]], None],
        refused: Callable[[Job, NotSettled], None],
        changed: Callable[[], None],
    ) -> None:
        self.sink = sink
        self.down = False
        self._service = service
        self._runtime = runtime
        self._routes = routes
        self._public = public
        self._filed = filed
        self._refused = refused
        self._changed = changed
        self._thread = runtime.client_thread("missive-store")
        self._pending: list[Job] = []
        self._last_id = ""
        self._wake = asyncio.Event()

    def add(self, job: Job) -> None:
        """File a job that was decided to be a dead letter, or is to be parked."""
        if self.sink is None:
            self._refused(job, _not_settled(job))
            return
        if self.sink.rejects:
            job.disposition = Disposition.reject
            self._filed([job])
            return
        self._pending.append(job)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """How many dead letters are not durable yet."""
        return len(self._pending)

    async def run(self) -> None:
        """File what is added, until cancelled."""
        backoff = _FIRST_BACKOFF
        while True:
            await self._wake.wait()
            batch = self._pending[:_MOST_AT_ONCE]
            try:
                await self._thread.run(self._write, batch)
            except StoreError as trouble:
                self._stalled(trouble)
                await self._runtime.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
                continue
            backoff = _FIRST_BACKOFF
            del self._pending[: len(batch)]
            if not self._pending:
                self._wake.clear()
            if self.down:
                self.down = False
                logger.warning("the dead letter store can be written again; intake goes on")
                self._changed()
            self._filed(batch)

    def _stalled(self, trouble: StoreError) -> None:
        if not self.down:
            self.down = True
            logger.error(
                "%s; intake is paused and %d dead letters wait, unsettled; trying again", trouble, len(self._pending)
            )
            self._changed()

    def _write(self, batch: Sequence[Job]) -> None:
        """Build and put the records; on the filing thread."""
        if self.sink is None:
            return
        try:
            self.sink.put([self._record(job) for job in batch])
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - a third party's sink may raise anything; nothing is settled for it
            broken = StoreError(f"the dead letter sink {type(self.sink).__name__} raised {type(error).__name__}")
        else:
            return
        raise broken

    def _record(self, job: Job) -> Record:
        decision = job.decision
        if decision is None or (decision.reason is None and job.parked is None):
            raise TypeError("only what is a dead letter, or parked, is filed")
        now, new_id = self._runtime.time(), self._new_id
        try:
            return make_record(
                job, service=self._service, routes=self._routes, public=self._public, now=now, new_id=new_id
            )
        except Exception as error:  # noqa: BLE001 - one message must never keep the others from being filed
            trouble = describe_exception(error)
        logger.error("the record of a dead letter could not be made in full: %s", trouble)
        return bare_record(job, service=self._service, now=now, new_id=new_id, detail=trouble)

    def _new_id(self) -> str:
        """Return an id after all before it: those of a lane are taken up in the order of their ids."""
        self._last_id = after(self._last_id, self._runtime.new_id())
        return self._last_id

    # What adapters keep beside the dead letters

    async def load_checkpoint(self, source: str) -> str | None:
        """Return what `remember` kept, or None; None as well where nothing can be kept."""
        if isinstance(self.sink, Store):
            return await self._thread.run(self.sink.load_checkpoint, self._service, source)
        return None

    async def save_checkpoint(self, source: str, value: str) -> bool:
        """Keep a value; False where nothing can be kept."""
        if isinstance(self.sink, Store):
            await self._thread.run(self.sink.save_checkpoint, self._service, source, value)
            return True
        return False

    def ask(self, fn: Callable[[Store], T]) -> Future[T]:
        """Run a function of the store on its thread. Raises TypeError for a sink that is none."""
        if not isinstance(self.sink, Store):
            raise TypeError(f"{type(self.sink).__name__} is not a store")
        return self._thread.submit(fn, self.sink)

    async def call(self, fn: Callable[[], T]) -> T:
        """Call something on the thread of the sink, between what is filed."""
        return await self._thread.run(fn)

    async def close(self) -> None:
        """End the thread and close the sink."""
        if self.sink is not None:
            await self._thread.run(self.sink.close)
        await self._thread.close()


def _not_settled(job: Job) -> NotSettled:
    decision = job.decision
    why = "" if decision is None else decision.label or decision.reason or ""
    handler = f" by {job.route.name}" if job.route is not None else ""
    kind = f" ({decision.failure.type})" if decision is not None and decision.failure is not None else ""
    return NotSettled(
        f"a message of {job.source.adapter.url} ended as a dead letter: {why}{handler}{kind}; there is no dead letter"
        " queue to keep it in, and it was left unsettled: set one with missive.Processor(dlq='sqlite:///dlq.db')"
    )


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
    public: Collection[tuple[str, ...]],
    now: float,
    new_id: Callable[[], str],
) -> Record:
    """Make the record of a job that was decided to be a dead letter."""
    decision, delivery, message, adapter = job.decision, job.delivery, job.message, job.source.adapter
    if decision is None or (decision.reason is None and job.parked is None):
        raise TypeError("only what is a dead letter, or parked, has a record")
    reason, parked = decision.reason or Reason.failed, job.parked
    failure, handler = decision.failure, None if job.route is None else job.route.name
    misrouted = decision.reason in {Reason.unmatched, Reason.ambiguous, Reason.unreadable} and job.route is None
    sha256 = hashlib.sha256(delivery.body).hexdigest()
    error_type = None if failure is None else failure.type
    headers: dict[str, Any] = {field: _header(message, name) for name, field in HEADER_FIELDS.items()}
    attempt = Attempt(
        at=now,
        reason=str(reason if parked is None else decision.outcome),
        attempt=job.attempt,
        handler=handler,
        error=error_type,
        host=_RUNTIME["host"],
        pid=os.getpid(),
    )
    return Record(
        id=delivery.record_id or new_id(),
        service=service,
        reason=reason,
        status=Status.dead if parked is None else Status.parked,
        due=None if parked is None else parked.due,
        lane=None if parked is None else parked.lane,
        lease_token=None if delivery.record is None else delivery.token,
        identity=identity(adapter.url, delivery, sha256),
        body=delivery.body,
        headers=tuple((str(_storable(name)), value) for name, value in message.headers.pairs),
        origin=Origin(
            adapter.transport,
            adapter.destination,
            adapter.url,
            delivery.lane,
            delivery.position,
            _storable(delivery.native_id),
        ),
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
        public=public_values(message, public),
        error_type=error_type,
        error_chain=() if failure is None else tuple(failure.to_json()),
        error_text=None if failure is None else _storable(failure.text),
        history=(*job.history, attempt),
        runtime={**_RUNTIME, "pid": os.getpid()},
        **headers,
        may_join=delivery.position is not None or delivery.redelivered,
        message=message,
    )


def bare_record(job: Job, *, service: str, now: float, new_id: Callable[[], str], detail: str) -> Record:
    """Make the record of a job of which something cannot be recorded: what it is and why, and no more."""
    delivery, adapter = job.delivery, job.source.adapter
    reason = Reason.failed if job.decision is None or job.decision.reason is None else job.decision.reason
    return Record(
        id=delivery.record_id or new_id(),
        service=service,
        reason=reason,
        status=Status.dead if job.parked is None else Status.parked,
        due=None if job.parked is None else job.parked.due,
        lane=None if job.parked is None else job.parked.lane,
        lease_token=None if delivery.record is None else delivery.token,
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
    """Return what the arrivals of one message share, or None where nothing is.

    That is the position in its source; or the producer's id with the body, which counts only while the transport
    says that it is a redelivery (`Record.may_join`). A shared id alone never does.
    """
    if delivery.position is not None:
        known = f"{url}\0{delivery.lane or ''}\0{delivery.position}\0{sha256}"
    elif delivery.producer_id is not None:
        known = f"{url}\0id\0{delivery.producer_id}\0{sha256}"
    else:
        return None
    return hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()


def public_values(message: Message, public: Collection[tuple[str, ...]]) -> dict[str, Any]:
    """Return the values of a message that were declared public, by path or name."""
    values: dict[str, Any] = {}
    content: object = None
    if isinstance(message, StructuredMessage):
        try:
            content = message.content
        except Exception:  # noqa: BLE001 - what cannot be decoded has nothing public
            content = None
    for path in public:
        value = content
        for segment in path:
            value = value.get(segment) if isinstance(value, Mapping) else None
        if value is None and len(path) == 1:
            value = message.headers.get(path[0])
        if isinstance(value, (str, int, float)):
            values[".".join(path)] = value
    return values


def _explanation(
    routes: Sequence[HandlerRoute], decision: Decision, message: Message, public: Collection[tuple[str, ...]]
) -> dict[str, object]:
    """Explain what was decided, as far as that is soon done: a matcher may walk through the whole body."""
    names = frozenset(decision.candidates)
    concerned = (route for route in routes if not names or route.name in names)
    most = max(_LEAST_ASKED, min(_MOST_ASKED, _MOST_READ // (len(message.raw_data) + 1)))
    misrouted = Misrouted(decision.reason or Reason.unmatched, decision.candidates)
    explanation = explain(tuple(islice(concerned, most)), message, public, misrouted)
    return msgspec.structs.replace(explanation, considered=explanation.considered[:_MOST_EXPLAINED]).to_dict()


def _header(message: Message, name: str) -> str | None:
    """Return a header's value, or the first of them."""
    value = message.headers.get(name)
    return _storable(value[0] if isinstance(value, tuple) else value)


def _storable(text: str | bytes | None) -> str | None:
    """Return text that can be stored: a lone surrogate, as an exception's text may have, is no UTF-8."""
    if text is None:
        return None
    if isinstance(text, bytes):
        return text.decode("utf-8", "backslashreplace")
    return text.encode("utf-8", "backslashreplace").decode()
