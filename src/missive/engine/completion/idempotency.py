"""Idempotency: claims of `once=` effects are taken in the store before handlers run, and ended before settlement."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from missive.app.terms import HandlerRoute
from missive.dlq.once import ClaimAnswer, ClaimRequest, ClaimState, EffectKey, OnceStore
from missive.engine.completion.claims import (
    HAPPENED,
    Calls,
    Ended,
    HandlerClaims,
    body_hash,
    decide_claimed,
    decide_keyless,
    effect_key,
)
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.exits import Exits
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.held import HeldJobs
from missive.engine.intake.source import Source
from missive.engine.job import Claim, Job
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage
from missive.engine.state import EngineState
from missive.engine.store import StoreClient
from missive.engine.workers.decision import DUPLICATE, decide
from missive.errors import StoreError

BUSY_SECONDS = 1.0
"""How long a message waits before it is claimed again while its effect is in progress elsewhere, in seconds."""

_AHEAD = 64
"""How many effects are claimed beyond the concurrency. A crash leaves that many claims of effects that never began."""
_RENEWALS_PER_LEASE = 3
_CHECKS_PER_LEASE = 10
_PURGE_EVERY = 60.0
"""Time between two purges of old effects, in seconds."""
_PORTION, _MAX_PORTIONS = 1000, 200
"""Number of effects that are purged in one call, and number of calls in one purge."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0

logger = logging.getLogger("missive")

T = TypeVar("T")


class DuplicateCount(Stage):
    """Counts messages whose effect had already happened as duplicates instead of handled."""

    def __init__(self, state: EngineState) -> None:
        self._report = state.report

    def conclude(self, jobs: list[Job]) -> list[Job]:
        """Count duplicates; return all jobs."""
        for job in jobs:
            if job.decision is DUPLICATE and job.route is not None:
                self._report.duplicates += 1
                self._report.handled.subtract((job.route.name,))
                self._report.handled += Counter()  # drops names with a count of zero
        return jobs


class IdempotencyClaims(Stage):
    """Claims effects before their handlers start, and records them before their messages are settled.

    While the store cannot be written, the jobs wait.
    """

    def __init__(
        self,
        service: str,
        store: StoreClient,
        once_store: OnceStore,
        routes: frozenset[HandlerRoute],
        concurrency: int,
        dispatcher: Dispatcher,
        held_jobs: HeldJobs,
        dead_letters: DeadLetterWriter,
        exits: Exits,
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self.intercepts = routes
        self._service = service
        self._store = store
        self._once_store = once_store
        self._dispatcher = dispatcher
        self._held_jobs = held_jobs
        self._dead_letters = dead_letters
        self._exits = exits
        self._state = state
        self._runtime = runtime
        self._owner = runtime.new_id()
        # With expired="flag", an effect is claimed only when its handler can start at once.
        self._handlers = {
            route: HandlerClaims(once, concurrency + (_AHEAD if once.expired == "rerun" else 0))
            for route in sorted(routes, key=lambda route: route.name)
            if (once := route.terms.once) is not None
        }
        self._mine: dict[EffectKey, Claim] = {}
        """The claims that are asked for, held, or about to be dropped: no other job of this process may claim them."""
        self._unasked: list[Job] = []
        """Jobs with an answer that needs no call: without a key, or claimed by another job of this process."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._holding = asyncio.Event()
        self._purged = runtime.monotonic()
        store.waiting.append(lambda: sum(handler.unfiled for handler in self._handlers.values()))

    def loops(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return the loops that call the store and renew the claims."""
        return [self._run(), self._renew_all()]

    # The stations

    def start(self, job: Job) -> bool:
        """Return whether a job has its claim; ask the store for the claim if not."""
        if job.claim is not None:
            return True
        self._ask(job)
        return False

    def _ask(self, job: Job) -> None:
        route = job.route
        if route is None:
            return
        handler = self._handlers[route]
        try:
            digest = handler.once.digest_of(job.message)
        except Exception as error:  # noqa: BLE001 - a callable of the application may raise anything
            job.decision = decide(None, error)
        else:
            if digest is None:
                job.decision = decide_keyless()
            elif (route.name, digest) not in self._mine:
                claim = self._mine[route.name, digest] = Claim(route.name, digest, 0.0)
                if handler.out + len(handler.asking) >= handler.ahead:
                    job.source.mark_waiting(job)  # other messages of its handler are before it
                handler.asking.append((job, claim))
                self._wake.set()
                if self._store.down:
                    job.source.mark_waiting(job)
                    self._store.check_pause()
                return
        self._unasked.append(job)
        self._wake.set()

    def conclude(self, jobs: list[Job]) -> list[Job]:
        """Record the effects of jobs, which are settled afterwards; return the jobs without a claim."""
        free = [job for job in jobs if job.claim is None]
        for job in jobs:
            self._end(job, waits=True)
        return free

    def held(self, job: Job) -> None:
        """Drop the claim of a job that waits for another attempt."""
        self._release([job])

    def released(self, job: Job) -> None:
        """Drop the claim of a job that waits for its dependency."""
        self._release([job])

    def settled(self, source: Source, jobs: Sequence[Job], lost: bool) -> None:  # noqa: ARG002 - see Stage
        """Drop or end the claims of jobs that left the engine."""
        self._release(jobs)

    def _release(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.claim is None or job.route is None:
                continue
            if job.decision is not None and job.decision.outcome in HAPPENED:
                self._end(job, waits=False)
            else:
                claim, job.claim = job.claim, None
                self._handlers[job.route].dropped.append(claim)
                self._mine.pop((claim.handler, claim.digest), None)  # the drop reaches the store before a new request
                self._wake.set()

    def _end(self, job: Job, *, waits: bool) -> None:
        claim, job.claim = job.claim, None
        if claim is None or job.route is None:
            return
        self._handlers[job.route].ended.append(Ended(job, claim, waits))
        self._wake.set()

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out jobs whose claims have not been asked for yet."""
        taken: list[Job] = []
        unasked, self._unasked = self._unasked, []
        for job in unasked:
            (taken if job.decision is None and which(job) else self._unasked).append(job)
        for handler in self._handlers.values():
            asking, handler.asking = handler.asking, deque()
            for job, claim in asking:
                if which(job):
                    del self._mine[claim.handler, claim.digest]
                    taken.append(job)
                else:
                    handler.asking.append((job, claim))
        return taken

    def _answered(self, jobs: Sequence[Job]) -> None:
        """Continue with jobs whose claims are decided: claimed, refused, or busy elsewhere."""
        for job in jobs:
            job.source.mark_ready(job)
            if job.decision is not None:
                self._dispatcher.leave_lane(job)
                if job.decision is DUPLICATE:
                    self._state.report.duplicates += 1
                    job.source.settler.add([job])
                else:
                    self._dead_letters.add(job)
            elif not job.owned:
                self._exits.forget([job])
            elif not self._exits.may_start(job):
                self._dispatcher.leave_lane(job)
                self._exits.give_back([job])
            elif job.claim is not None:
                self._dispatcher.add_head(job)
            else:
                if job.route is not None and job.route.terms.on_lane_retry == "pass":
                    self._dispatcher.leave_lane(job)
                self._held_jobs.hold(job, BUSY_SECONDS)
        self._dispatcher.dispatch()

    # Calling the store

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            await self._wake.wait()
            self._wake.clear()
            unasked, self._unasked = self._unasked, []
            if unasked:
                self._answered(unasked)
            calls = {handler: handler.next() for handler in self._handlers.values()}
            calls = {handler: one for handler, one in calls.items() if one.begin or one.end or one.drop}
            if not calls:
                self._idle.set()
                continue
            self._idle.clear()
            asked_at = self._runtime.monotonic()
            try:
                results = await self._store.write(partial(self._call, list(calls.values())))
            except StoreError:
                for handler, one in calls.items():
                    handler.put_back(one)
                    for job, _ in handler.asking:  # so that `max_unfiled` alone pauses intake
                        job.source.mark_waiting(job)
                await self._runtime.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
                self._wake.set()
                continue
            backoff = _FIRST_BACKOFF
            for (handler, one), (answers, ours) in zip(calls.items(), results, strict=True):
                handler.calling = 0
                self._begun(handler, one, answers, asked_at)
                self._ended(one, ours)
            self._wake.set()  # there may be more to ask for, or nothing at all

    def _call(self, calls: Sequence[Calls]) -> list[tuple[list[ClaimAnswer], set[EffectKey]]]:
        """Call the store, on its thread: record ended effects and dropped claims first, then begin new claims."""
        store, service, owner = self._once_store, self._service, self._owner
        results = []
        try:
            for once, begin, end, drop in calls:
                ours = store.once_done(service, [effect_key(e.claim) for e in end], owner, once.ttl) if end else set()
                if drop:
                    store.once_drop(service, [effect_key(claim) for claim in drop], owner)
                asked = [ClaimRequest(*effect_key(claim), body_hash(job)) for job, claim in begin]
                answers = store.once_begin(service, asked, owner, once.lease, once.ttl) if asked else []
                results.append((answers, ours))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - a third party's store may raise anything; nothing is settled then
            broken = StoreError(f"the dead letter store {type(store).__name__} raised {type(error).__name__}")
        else:
            return results
        raise broken

    def _begun(self, handler: HandlerClaims, calls: Calls, answers: Sequence[ClaimAnswer], asked_at: float) -> None:
        jobs = []
        for (job, claim), answer in zip(calls.begin, answers, strict=True):
            jobs.append(job)
            job.decision = decide_claimed(answer, calls.once)
            if answer.state is ClaimState.ours:
                claim.until = asked_at + calls.once.lease
                job.claim = claim
            else:
                handler.out -= 1
                del self._mine[claim.handler, claim.digest]
        if jobs:
            self._holding.set()
            self._answered(jobs)

    def _ended(self, calls: Calls, ours: set[EffectKey]) -> None:
        for ended in calls.end:
            del self._mine[effect_key(ended.claim)]
        if lost := sum(effect_key(ended.claim) not in ours for ended in calls.end):
            name = calls.end[0].claim.handler
            logger.warning("%s: %d claims expired while their handlers ran; these effects may repeat", name, lost)
        self._exits.settle([ended.job for ended in calls.end if ended.waits])

    async def flush(self) -> None:
        """Wait until the store has recorded every ended effect and every dropped claim."""
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    # Renewing

    async def _renew_all(self) -> None:
        pause = min(handler.once.lease for handler in self._handlers.values()) / _CHECKS_PER_LEASE
        while True:
            await self._holding.wait()
            if not self._mine:
                self._holding.clear()
                continue
            await self._runtime.sleep(pause)
            for route, handler in self._handlers.items():
                await self._renew(route.name, handler.once.lease)
            if self._runtime.monotonic() - self._purged >= _PURGE_EVERY:
                self._purged = self._runtime.monotonic()
                await self._purge()

    async def _renew(self, name: str, lease: float) -> None:
        now = self._runtime.monotonic()
        due = now + lease * (1 - 1 / _RENEWALS_PER_LEASE)
        claims = [claim for claim in self._mine.values() if claim.handler == name and 0 < claim.until <= due]
        if not claims:
            return
        effects = [effect_key(claim) for claim in claims]
        ours = await self._try(partial(self._once_store.once_extend, self._service, effects, self._owner, lease))
        if ours is None:
            return
        for claim in claims:
            # No handler starts under a lost claim. A running one continues: its effect may have happened already.
            claim.until = now + lease if effect_key(claim) in ours else 0.0

    async def _purge(self) -> None:
        """Delete old effects in portions, between which other calls reach the store."""
        for _ in range(_MAX_PORTIONS):
            purged = await self._try(partial(self._once_store.once_purge, _PORTION))
            if purged is None or purged < _PORTION:
                return

    async def _try(self, call: Callable[[], T]) -> T | None:
        """Call the store; return None when the call fails."""
        try:
            return await self._store.write(call)
        except StoreError:
            pass  # the outage is reported already
        except Exception as error:  # noqa: BLE001 - a third party's store
            logger.error("the store failed while renewing the claims of once=: %s", type(error).__name__)  # noqa: TRY400
        return None
