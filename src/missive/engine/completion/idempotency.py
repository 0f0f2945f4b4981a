"""Claims: what `once=` keeps in the store of effects that run, in batches; they are held until that is over."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from missive.app.context import Recorded
from missive.app.terms import HandlerRoute
from missive.dlq.contract import Sink
from missive.dlq.once import ClaimAnswer, ClaimRequest, ClaimState, EffectKey, OnceStore
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.job import Claim, Job
from missive.engine.runtime import Runtime
from missive.engine.workers.decision import DUPLICATE, Decision, decide
from missive.errors import StoreError, UsageError
from missive.once.declaration import EXPIRED, NO_KEY, Once
from missive.outcome import Outcome, Reason

BUSY_SECONDS = 1.0
"""How long a message waits whose effect is in progress elsewhere, until it is asked again."""

_AHEAD = 64
"""So many effects more than can run at once are claimed ahead: what a crash leaves claimed, and was not begun."""
_RENEWALS_PER_LEASE = 3
_LOOKS_PER_LEASE = 10
_PURGE_EVERY = 60.0
_PORTION, _MOST_PORTIONS = 1000, 200
"""So many effects are forgotten at once, and so often in a row: more than can happen between two times."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0

HAPPENED = frozenset({Outcome.acked, Outcome.discarded})
"""Outcomes after which an effect is not to happen again."""

logger = logging.getLogger("missive")

T = TypeVar("T")


def leased_routes(routes: Iterable[HandlerRoute], sink: Sink | None) -> frozenset[HandlerRoute]:
    """Return the routes whose claims are kept in the store. Raises `UsageError` where there is none for them."""
    leased = frozenset(route for route in routes if route.terms.once is not None and route.terms.once.form == "lease")
    if leased and not isinstance(sink, OnceStore):
        name = min(route.name for route in leased)
        there = "there is none" if sink is None else f"a {type(sink).__name__} keeps no claims"
        raise UsageError(
            f"{name} has once=, which keeps its claims in the dead letter store, and {there}: set one with"
            " missive.Processor(dlq='sqlite:///dlq.db'), or claim in the handler's own transaction with"
            " Once(form='transaction')"
        )
    return leased


class _Ended(NamedTuple):
    """A job whose effect has happened."""

    job: Job
    claim: Claim
    waits: bool
    """Whether it is settled once that is durable."""


class _Work(NamedTuple):
    """What is done in one call of the store's thread, for one route."""

    once: Once[Any]
    begin: list[tuple[Job, Claim]]
    end: list[_Ended]
    drop: list[Claim]


class _Handler(msgspec.Struct, eq=False):
    """What is known of the claims of one route."""

    once: Once[Any]
    ahead: int
    """How many claims may be out at once, of effects of which it is not durable that they have happened."""
    out: int = 0
    asking: deque[tuple[Job, Claim]] = msgspec.field(default_factory=deque)
    ended: list[_Ended] = []
    dropped: list[Claim] = []

    def next(self) -> _Work:
        """Take out what can be done now."""
        ended, self.ended = self.ended, []
        dropped, self.dropped = self.dropped, []
        # What has happened is durable before anything else begins, so that a crash repeats `ahead` effects at the most.
        self.out -= len(ended) + len(dropped)
        count = max(0, min(len(self.asking), self.ahead - self.out))
        begin = [self.asking.popleft() for _ in range(count)]
        self.out += count
        return _Work(self.once, begin, ended, dropped)

    def put_back(self, work: _Work) -> None:
        """Take what could not be done now: it is tried again."""
        self.asking.extendleft(reversed(work.begin))
        self.out += len(work.end) + len(work.drop) - len(work.begin)
        self.ended[:0] = work.end
        self.dropped[:0] = work.drop


class Claims:
    """Claims effects before handlers run, and says when they have happened, before their messages are settled.

    `answered` is called with jobs that were asked for: each has its claim, or its decision, or neither where somebody
    else is at it. `finished` is called with jobs of which it is durable that their effect has happened. While the store
    cannot be written, `down` is true, and jobs wait; `changed` is called when that ends.
    """

    def __init__(
        self,
        service: str,
        filing: DeadLetterWriter,
        store: OnceStore,
        runtime: Runtime,
        routes: Iterable[HandlerRoute],
        concurrency: int,
        *,
        answered: Callable[[Sequence[Job]], None],
        finished: Callable[[Sequence[Job]], None],
        changed: Callable[[], None],
    ) -> None:
        self.down = False
        self._service = service
        self._filing = filing
        self._store = store
        self._runtime = runtime
        self._owner = runtime.new_id()
        self._answered = answered
        self._finished = finished
        self._changed = changed
        # Of what is to be flagged, nothing is claimed that cannot begin at once.
        self._handlers = {
            route: _Handler(once, concurrency + (_AHEAD if once.expired == "rerun" else 0))
            for route in routes
            if (once := route.terms.once) is not None
        }
        self._mine: dict[EffectKey, Claim] = {}
        """What is asked for, held or about to be given up here: nobody else here may have it."""
        self._hopeless: list[Job] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._something = asyncio.Event()
        self._purged = runtime.monotonic()

    def ask(self, job: Job) -> None:
        """Claim a job's effect; it comes back through `answered`."""
        route = job.route
        if route is None:
            return
        handler = self._handlers[route]
        try:
            digest = handler.once.digest_of(job.message)
        except Exception as error:  # noqa: BLE001 - a callable of the user's may raise anything
            job.decision = decide(None, error)
        else:
            if digest is None:
                job.decision = decide_keyless()
            elif (route.name, digest) in self._mine:  # by another message here
                pass
            else:
                claim = self._mine[route.name, digest] = Claim(route.name, digest, 0.0)
                if handler.out + len(handler.asking) >= handler.ahead:
                    job.source.put_behind(job)  # it waits for others of its handler
                handler.asking.append((job, claim))
                self._wake.set()
                return
        self._hopeless.append(job)
        self._wake.set()

    def finish(self, jobs: Sequence[Job]) -> None:
        """Remember that the effects of these jobs have happened; they come back through `finished`."""
        for job in jobs:
            self._end(job, waits=True)

    def let_go(self, jobs: Sequence[Job]) -> None:
        """End what is held for jobs that are on their way out, or wait for another attempt."""
        for job in jobs:
            if job.claim is None or job.route is None:
                continue
            if job.decision is not None and job.decision.outcome in HAPPENED:
                self._end(job, waits=False)
            else:
                claim, job.claim = job.claim, None
                self._handlers[job.route].dropped.append(claim)
                self._mine.pop((claim.handler, claim.digest), None)  # it is given up before it is asked for again
                self._wake.set()

    def _end(self, job: Job, *, waits: bool) -> None:
        claim, job.claim = job.claim, None
        if claim is None or job.route is None:
            return
        self._handlers[job.route].ended.append(_Ended(job, claim, waits))
        self._wake.set()

    def withdraw_those(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out some of those for which nothing has been asked of the store yet."""
        taken: list[Job] = []
        hopeless, self._hopeless = self._hopeless, []
        for job in hopeless:
            (taken if job.decision is None and which(job) else self._hopeless).append(job)
        for handler in self._handlers.values():
            asking, handler.asking = handler.asking, deque()
            for job, claim in asking:
                if which(job):
                    del self._mine[claim.handler, claim.digest]
                    taken.append(job)
                else:
                    handler.asking.append((job, claim))
        return taken

    # Asking the store

    async def run(self) -> None:
        """Ask the store for what is wanted of it, until cancelled."""
        backoff = _FIRST_BACKOFF
        while True:
            await self._wake.wait()
            self._wake.clear()
            hopeless, self._hopeless = self._hopeless, []
            if hopeless:
                self._answered(hopeless)
            works = {handler: handler.next() for handler in self._handlers.values()}
            works = {handler: work for handler, work in works.items() if work.begin or work.end or work.drop}
            if not works:
                self._go_on()  # what could not be claimed is gone meanwhile: the next claim will tell
                self._idle.set()
                continue
            self._idle.clear()
            asked_at = self._runtime.monotonic()
            try:
                results = await self._filing.call(partial(self._call, list(works.values())))
            except StoreError as trouble:
                for handler, work in works.items():
                    handler.put_back(work)
                self._stalled(trouble)
                await self._runtime.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
                self._wake.set()
                continue
            backoff = _FIRST_BACKOFF
            self._go_on()
            for (handler, work), (answers, ours) in zip(works.items(), results, strict=True):
                self._deal(handler, work, answers, asked_at)
                self._conclude(work, ours)
            self._wake.set()  # others may be asked for now, or it is idle

    def _call(self, works: Sequence[_Work]) -> list[tuple[list[ClaimAnswer], set[EffectKey]]]:
        """Ask the store; on its thread. What has happened is written first, and what is given up."""
        store, service, owner = self._store, self._service, self._owner
        results = []
        try:
            for once, begin, end, drop in works:
                ours = store.once_done(service, [_effect(e.claim) for e in end], owner, once.ttl) if end else set()
                if drop:
                    store.once_drop(service, [_effect(claim) for claim in drop], owner)
                asked = [ClaimRequest(*_effect(claim), _sha256(job)) for job, claim in begin]
                answers = store.once_begin(service, asked, owner, once.lease, once.ttl) if asked else []
                results.append((answers, ours))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - a third party's store may raise anything; nothing is settled for it
            broken = StoreError(f"the dead letter store {type(store).__name__} raised {type(error).__name__}")
        else:
            return results
        raise broken

    def _stalled(self, trouble: StoreError) -> None:
        if not self.down:
            self.down = True
            logger.error("%s; intake is paused, because the claims of once= cannot be kept; trying again", trouble)
            self._changed()

    def _go_on(self) -> None:
        if self.down:
            self.down = False
            logger.warning("the claims of once= can be kept again; intake goes on")
            self._changed()

    def _deal(self, handler: _Handler, work: _Work, answers: Sequence[ClaimAnswer], asked_at: float) -> None:
        jobs = []
        for (job, claim), answer in zip(work.begin, answers, strict=True):
            jobs.append(job)
            job.decision = decide_claimed(answer, work.once)
            if answer.state is ClaimState.ours:
                claim.until = asked_at + work.once.lease
                job.claim = claim
            else:
                handler.out -= 1
                del self._mine[claim.handler, claim.digest]
        if jobs:
            self._something.set()
            self._answered(jobs)

    def _conclude(self, work: _Work, ours: set[EffectKey]) -> None:
        for ended in work.end:
            del self._mine[_effect(ended.claim)]
        if lost := sum(_effect(ended.claim) not in ours for ended in work.end):
            name = work.end[0].claim.handler
            logger.warning("%s: %d claims ran out while it ran; these effects may have happened twice", name, lost)
        if done := [ended.job for ended in work.end if ended.waits]:
            self._finished(done)

    async def flush(self) -> None:
        """Wait until the store knows what has happened and what was given up."""
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    # Holding

    async def renew(self) -> None:
        """Hold what is claimed, until cancelled."""
        pause = min(handler.once.lease for handler in self._handlers.values()) / _LOOKS_PER_LEASE
        while True:
            await self._something.wait()
            if not self._mine:
                self._something.clear()
                continue
            await self._runtime.sleep(pause)
            for route, handler in self._handlers.items():
                await self._renew(route.name, handler.once.lease)
            if self._runtime.monotonic() - self._purged >= _PURGE_EVERY:
                self._purged = self._runtime.monotonic()
                await self._purge()

    async def _purge(self) -> None:
        """Forget what may be forgotten, in portions between which others have their turn with the store."""
        for _ in range(_MOST_PORTIONS):
            forgotten = await self._tried(partial(self._store.once_purge, _PORTION))
            if forgotten is None or forgotten < _PORTION:
                return

    async def _renew(self, name: str, lease: float) -> None:
        now = self._runtime.monotonic()
        due = now + lease * (1 - 1 / _RENEWALS_PER_LEASE)
        claims = [claim for claim in self._mine.values() if claim.handler == name and 0 < claim.until <= due]
        if not claims:
            return
        effects = [_effect(claim) for claim in claims]
        ours = await self._tried(partial(self._store.once_extend, self._service, effects, self._owner, lease))
        if ours is None:
            return
        for claim in claims:
            # What is lost is not begun any more; what runs goes on, for its effect may have happened already.
            claim.until = now + lease if _effect(claim) in ours else 0.0

    async def _tried(self, call: Callable[[], T]) -> T | None:
        """Ask the store; None where it cannot answer now."""
        try:
            return await self._filing.call(call)
        except StoreError as trouble:
            logger.warning("%s while holding the claims of once=; trying again", trouble)
        except Exception as error:  # noqa: BLE001 - a third party's store
            logger.error("the store failed while holding the claims of once=: %s", type(error).__name__)  # noqa: TRY400
        return None


def decide_claimed(answer: ClaimAnswer, once: Once[Any]) -> Decision | None:
    """Decide about a job whose effect was to be claimed; None where it runs, or waits."""
    if answer.state is ClaimState.done:
        return DUPLICATE
    if answer.state is ClaimState.conflict:
        return Decision(Outcome.dead_lettered, Reason.conflict)
    if answer.fence > 1 and answer.state is ClaimState.ours and once.expired == "flag":
        return Decision(Outcome.dead_lettered, Reason.conflict, EXPIRED)
    return None


def decide_keyless() -> Decision:
    """Decide about a message that has no key by which its effect could be told from others."""
    return decide(Recorded(Outcome.dead_lettered, NO_KEY), None)


def _effect(claim: Claim) -> EffectKey:
    return claim.handler, claim.digest


def _sha256(job: Job) -> str:
    return hashlib.sha256(job.message.raw_data).hexdigest()
