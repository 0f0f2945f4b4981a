"""Dead letters: the writer makes dead letters and parked messages durable before anything is settled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from missive.app.terms import HandlerRoute
from missive.dlq.contract import Store
from missive.dlq.failure import describe_exception
from missive.dlq.record import Record
from missive.engine.completion.escaping import escaped
from missive.engine.completion.notices import Notices
from missive.engine.completion.records import LEASE, bare_record, make_record
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.state import EngineState
from missive.engine.store import StoreClient
from missive.engine.workers.decision import Decision
from missive.errors import NotSettled, ProcessingFailed, RecordRejected, StoreError
from missive.ids import after
from missive.messages import RawMessage
from missive.outcome import Outcome, Reason
from missive.public import PublicPlace
from missive.transport import Disposition

_BATCH = 500
"""Maximum number of records that are written at once."""
_BATCH_BYTES = 64 * 1024 * 1024
"""Size of the bodies after which a batch ends, in bytes."""
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 5.0
_PATIENT_FAILURES = 4
"""Number of failed writes, one after the other, before fewer records are written at once."""
_PUT_OFF_SECONDS = 30.0
"""Time after which a record that the sink does not take is tried again, in seconds."""

logger = logging.getLogger("missive")


class DeadLetterWriter(Stage):
    """Writes records to the sink, in batches on the store's thread.

    While the sink cannot be written, the jobs stay unsettled, and writing is retried with back-off.
    `on_filed` is called with jobs whose records are durable; the assembly sets it.
    """

    on_filed: Callable[[Sequence[Job]], None]

    def __init__(
        self,
        service: str,
        store: StoreClient,
        routes: Sequence[HandlerRoute],
        public: Collection[PublicPlace],
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._service = service
        self._store = store
        self._routes = routes
        self._public = public
        self._state = state
        self._runtime = runtime
        self._pending: list[Job] = []
        self._built: dict[Job, Record] = {}
        """The records of pending jobs that were built: a record keeps its id over all tries to write it."""
        self._escaped: set[Job] = set()
        """The pending jobs whose record is escaped."""
        self._suspects: dict[Job, int] = {}
        """The pending jobs that could not be written alone, each with `_writes` at that time."""
        self._writes = 0
        """Number of batches that were written."""
        self._put_off: list[Job] = []
        """The jobs that wait, because the sink takes others but not them, with the later jobs of their lanes."""
        self._last_id = ""
        self._limit = _BATCH
        """Maximum number of records of the next batch."""
        self._notices = Notices(state, runtime)
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        store.waiting.append(lambda: self.pending)

    @property
    def has_sink(self) -> bool:
        """Whether there is a place for dead letters."""
        return self._store.sink is not None

    @property
    def blocked(self) -> bool:
        """Whether too many messages wait for the sink."""
        return self._store.paused

    @property
    def pending(self) -> int:
        """The number of records that are not durable yet."""
        return len(self._pending) + len(self._put_off)

    def add(self, job: Job) -> None:
        """File a job that was decided to be a dead letter, or that is parked.

        Without a sink, the job stays unsettled and the engine stops.
        """
        sink = self._store.sink
        if sink is None:
            job.source.refused += 1
            self._state.fail(_not_settled(job))
            self._notices.refused(job)
            self._state.changed.set()
        elif sink.rejects:
            job.disposition = Disposition.reject
            self._notices.rejected(job)
            self.on_filed([job])
        else:
            if self._put_off and (lane := _lane(job)) is not None and lane in map(_lane, self._put_off):
                self._put_off.append(job)
            else:
                self._pending.append(job)
                self._wake.set()
            if self._store.down:
                job.source.mark_waiting(job)
                self._store.check_pause()

    async def written(self) -> None:
        """Wait until all records are durable."""
        while self.pending:
            self._empty.clear()
            await self._empty.wait()

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return the loop that writes records."""
        return [self._run()]

    async def _run(self) -> None:
        backoff, failures = _FIRST_BACKOFF, 0
        while True:
            await self._wake.wait()
            batch = self._next_batch()
            try:
                joined = await self._store.write(partial(self._write, batch))
            except MemoryError:  # the same batch would fail again
                self._shrink(batch)
                continue
            except RecordRejected as error:
                self._divide(batch, error)
                continue
            except StoreError:
                for job in self._pending:  # so that `max_unfiled` alone pauses intake
                    job.source.mark_waiting(job)
                self._notices.delayed(self._pending)
                failures += 1
                await self._runtime.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
                if failures > _PATIENT_FAILURES:
                    self._suspect(batch)
                    backoff = _FIRST_BACKOFF if len(batch) > 1 else backoff
                continue
            backoff, failures = _FIRST_BACKOFF, 0
            self._conclude(batch, joined)

    def _conclude(self, batch: Sequence[Job], joined: Mapping[str, str]) -> None:
        """Hand on the jobs of a written batch. `joined` has the stored ids of records that joined others."""
        self._notices.written(batch, self._built if isinstance(self._store.sink, Store) else None, joined)
        self._limit = min(_BATCH, self._limit * 2)
        self._writes += 1
        del self._pending[: len(batch)]
        for job in batch:
            self._built.pop(job, None)
        if self._suspects or self._escaped:
            self._escaped.difference_update(batch)
            self._suspects = {one: writes for one, writes in self._suspects.items() if one not in batch}
        if not self._pending:
            self._wake.clear()
            self._empty.set()
        for job in batch:
            job.source.mark_ready(job)
        self.on_filed(batch)
        self._store.check_pause()

    def _next_batch(self) -> Sequence[Job]:
        """Return the records to write next: few enough to fit in memory, and at least one."""
        batch = self._pending[: self._limit]
        size = 0
        for count, job in enumerate(batch):
            size += len(job.delivery.body)
            if size > _BATCH_BYTES:
                return batch[: max(1, count)]
        return batch

    def _shrink(self, batch: Sequence[Job]) -> None:
        """Write less at once after a batch did not fit in memory. A record that does not fit loses its body."""
        self._limit = max(1, len(batch) // 2)
        if len(batch) > 1:
            return
        (job,) = batch
        delivery = job.delivery
        if not delivery.body and not delivery.headers:
            raise ProcessingFailed(
                "a dead letter without its body does not fit in memory: give the process more memory"
            )
        logger.error(
            "%s: a dead letter of %d bytes does not fit in memory; it is filed as too_large, without its body",
            job.source.adapter.url,
            len(delivery.body),
        )
        self._built.pop(job, None)
        job.source.return_credit(0, len(delivery.body))
        delivery.body, delivery.headers, job.message = b"", (), RawMessage(b"")
        detail = "the record did not fit in memory"
        job.decision, job.parked = Decision(Outcome.dead_lettered, Reason.too_large, detail=detail), None

    # Records that the sink does not take

    def _divide(self, batch: Sequence[Job], error: RecordRejected) -> None:
        """Write half of a batch that has a rejected record. Escape a record that is rejected alone, or put it off."""
        if len(batch) > 1:
            self._limit = len(batch) // 2
            return
        (job,) = batch
        if job not in self._escaped:
            self._escaped.add(job)
            self._built[job] = escaped(self._built[job])
            logger.warning(
                "%s: the dead letter store rejects a text of record %s, which is escaped",
                job.source.adapter.url,
                self._built[job].id,
            )
        else:
            self._postpone(job, str(error))

    def _suspect(self, batch: Sequence[Job]) -> None:
        """Find out whether one record of a batch that fails repeatedly is the cause, by writing less at once.

        A single record goes behind the others. If they could be written since, and it cannot again, it is put off.
        """
        self._limit = max(1, len(batch) // 2)
        if len(batch) > 1:
            return
        (job,) = batch
        if self._suspects.setdefault(job, self._writes) < self._writes:
            self._postpone(job, "it cannot be written, and others can")
            return
        behind = self._with_lane(job, self._pending)
        self._pending = [one for one in self._pending if one not in behind] + behind

    def _postpone(self, job: Job, why: str) -> None:
        """Try to write a record again later, and the later records of its lane after it."""
        logger.error(
            "%s: record %s stays unsettled and is tried again every %d s: %s",
            job.source.adapter.url,
            self._built[job].id,
            _PUT_OFF_SECONDS,
            why,
        )
        behind = self._with_lane(job, self._pending)
        self._pending = [one for one in self._pending if one not in behind]
        if not self._pending:
            self._wake.clear()
        for one in behind:
            one.source.mark_waiting(one)
        if not self._put_off:
            self._runtime.call_later(_PUT_OFF_SECONDS, self._resume)
        self._put_off += behind

    def _resume(self) -> None:
        self._pending += self._put_off
        self._put_off = []
        self._wake.set()

    @staticmethod
    def _with_lane(job: Job, jobs: Sequence[Job]) -> list[Job]:
        lane = _lane(job)
        return [one for one in jobs if one is job or (lane is not None and _lane(one) == lane)]

    # On the store's thread

    def _write(self, batch: Sequence[Job]) -> Mapping[str, str]:
        """Build and put the records, on the store's thread. Return the stored ids of records that joined others."""
        sink = self._store.sink
        if sink is None:
            return {}
        try:
            joined = sink.put([self._record(job) for job in batch])
        except (StoreError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - a third party's sink may raise anything; nothing is settled then
            broken = StoreError(f"the dead letter sink {type(sink).__name__} raised {type(error).__name__}")
        else:
            return joined or {}
        raise broken

    def _record(self, job: Job) -> Record:
        record = self._built.get(job)
        if record is None:
            record = self._build(job)
        elif record.leased_until is not None:
            record = replace(record, leased_until=self._runtime.time() + LEASE)
        self._built[job] = record
        return record

    def _build(self, job: Job) -> Record:
        decision = job.decision
        if decision is None or (decision.reason is None and job.parked is None):
            raise TypeError("only dead letters and parked messages are filed")
        now, new_id = self._runtime.time(), self._new_id
        if job.parked is not None and job.parked.at is not None:
            now = job.parked.at  # a record whose clock was set back shows it by both of its times
        if job.parked is not None and job.parked.adopted is not None:
            self._last_id = max(self._last_id, job.parked.adopted.record.id)
        try:
            return make_record(
                job, service=self._service, routes=self._routes, public=self._public, now=now, new_id=new_id
            )
        except Exception as error:  # noqa: BLE001 - one message must not keep the others from being filed
            described = describe_exception(error)
        logger.error("the record of a dead letter is incomplete: %s", described)
        return bare_record(job, service=self._service, now=now, new_id=new_id, detail=described)

    def _new_id(self) -> str:
        """Return an id that sorts after all earlier ones: the parked messages of a lane are leased in that order."""
        self._last_id = after(self._last_id, self._runtime.new_id())
        return self._last_id


def _lane(job: Job) -> str | None:
    """Return the lane in whose order a job is parked, or None."""
    return None if job.parked is None else job.parked.lane


def _not_settled(job: Job) -> NotSettled:
    decision = job.decision
    why = "" if decision is None else decision.label or decision.reason or ""
    handler = f" by {job.route.name}" if job.route is not None else ""
    kind = f" ({decision.failure.type})" if decision is not None and decision.failure is not None else ""
    return NotSettled(
        f"a message of {job.source.adapter.url} ended as a dead letter: {why}{handler}{kind}; there is no dead letter"
        " queue to keep it in, and it was left unsettled: set one with missive.Processor(dlq='sqlite:///dlq.db')"
    )
