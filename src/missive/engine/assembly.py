"""Assembly: start-up builds the stations of one engine, connects them, and orders their stages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from missive.adapters.base import Adapter
from missive.adapters.replay import ReplayAdapter
from missive.app.processor import Processor
from missive.app.terms import HandlerRoute
from missive.dlq.contract import Sink, Store
from missive.dlq.once import OnceStore
from missive.engine.completion.attempts import AttemptCounter
from missive.engine.completion.claims import leased_routes
from missive.engine.completion.completion import Completion
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.exits import Exits
from missive.engine.completion.idempotency import DuplicateCount, IdempotencyClaims
from missive.engine.completion.parking import ParkingLot, park_routes
from missive.engine.completion.redelivery import Redelivery
from missive.engine.completion.relocation import Relocation
from missive.engine.completion.settlement import Settler
from missive.engine.dispatch.circuit import circuits_of
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.held import HeldJobs
from missive.engine.dispatch.isolation import IsolatingDispatcher
from missive.engine.drain import Drain
from missive.engine.intake.admission import Admission
from missive.engine.intake.assignment import Assignment
from missive.engine.intake.backpressure import Backpressure
from missive.engine.intake.host import SourceHost
from missive.engine.intake.intake import Intake
from missive.engine.intake.lapses import Lapses, StoredLapses
from missive.engine.intake.leases import LeaseRenewer
from missive.engine.intake.placements import PlacementCheck
from missive.engine.intake.relief import Relief
from missive.engine.intake.source import Source
from missive.engine.intake.watchdog import Watchdog
from missive.engine.processes.crashes import Crashes
from missive.engine.runtime import Runtime
from missive.engine.stages import Stage, Stages
from missive.engine.state import EngineState
from missive.engine.store import StoreClient
from missive.engine.workers.monitor import WorkerMonitor
from missive.engine.workers.outbox import Outbox
from missive.engine.workers.pool import Pool
from missive.errors import UsageError


@dataclass(frozen=True, slots=True)
class Stations:
    """The connected stations of one engine."""

    pools: Sequence[Pool]
    dispatcher: Dispatcher
    held_jobs: HeldJobs
    dead_letters: DeadLetterWriter
    store: StoreClient
    stages: Stages
    """All stages of the engine and of its sources, in order."""
    intakes: dict[Source, Intake]
    watchdogs: Sequence[Watchdog]
    monitor: WorkerMonitor
    drain: Drain
    relocation: Relocation | None


class Assembler:
    """Builds the stations of one engine, on its loop. Raises `UsageError` when the sink lacks a required feature."""

    def __init__(
        self,
        processor: Processor[Any],
        sink: Sink | None,
        concurrency: int,
        handlers_loop: asyncio.AbstractEventLoop,
        state: EngineState,
        runtime: Runtime,
    ) -> None:
        self._processor = processor
        self._service = processor.name
        self._routes = routes = processor.freeze()
        self._sink = sink
        self._concurrency = concurrency
        self._state = state
        self._runtime = runtime
        router = processor.router()
        self._find = router.find
        self._store = StoreClient(sink, runtime, state, processor.max_unfiled)
        self._outbox = Outbox(asyncio.get_running_loop())
        self._pools, pool_of = self._build_pools(handlers_loop)
        self._held_jobs = HeldJobs(runtime)
        # Only a store counts crashes, so suspects exist only with a store.
        make_dispatcher = IsolatingDispatcher if isinstance(sink, Store) else Dispatcher
        self._dispatcher = make_dispatcher(self._pools, pool_of, concurrency, self._held_jobs, runtime)
        self._relocation: Relocation | None = None
        self._dead_letters = DeadLetterWriter(self._service, self._store, routes, processor.public, state, runtime)
        self._admission = Admission(
            processor.message_cls, router, routes, self._dispatcher, self._dead_letters, sink, state, runtime
        )
        self._exits = Exits(self._pools, self._dispatcher, self._held_jobs, self._admission, self._dead_letters, state)

    def assemble(self, adapters: Sequence[Adapter]) -> Stations:
        """Return the connected stations."""
        dispatcher, admission, exits, state, runtime = (
            self._dispatcher,
            self._admission,
            self._exits,
            self._state,
            self._runtime,
        )
        before, after, parking = self._build_stages()
        redelivery = Redelivery(
            dispatcher, self._held_jobs, admission, self._dead_letters, exits, parking, state, runtime
        )
        completion = Completion(dispatcher, exits, redelivery, state, runtime)
        self._outbox.collect = completion.collect
        self._dead_letters.on_filed = completion.filed
        of_sources: list[Stage] = []
        intakes: dict[Source, Intake] = {}
        watchdogs: list[Watchdog] = []
        for adapter in adapters:
            source, settler, backpressure, own = self._build_source(adapter)
            source.stages = Stages([settler, *before, *own, *after, self._dead_letters])
            host = SourceHost(self._service, runtime, self._store)
            host.assignment = Assignment(source, settler, backpressure, exits, admission, runtime)
            intakes[source] = Intake(source, host, admission, backpressure, state, runtime)
            watchdogs.append(Watchdog(source, backpressure, state, runtime))
            of_sources += [settler, *own]
        stages = Stages([self._dead_letters, *before, *of_sources, *after])
        for station in (dispatcher, admission, exits, redelivery, completion):
            station.stages = stages
        monitor = WorkerMonitor(self._pools, self._outbox, dispatcher, completion, self._concurrency, state, runtime)
        drain = Drain(dispatcher, admission, self._dead_letters, exits, stages, state)
        for stage in before:
            if isinstance(stage, Crashes):
                drain.suspected = stage.suspected
        return Stations(
            self._pools, dispatcher, self._held_jobs, self._dead_letters, self._store, stages, intakes, watchdogs,
            monitor, drain, self._relocation,
        )  # fmt: skip

    def _build_pools(self, handlers_loop: asyncio.AbstractEventLoop) -> tuple[list[Pool], dict[HandlerRoute, Pool]]:
        """Return the worker pools that the routes need, and the pool of each route."""
        routes, runtime, outbox = self._routes, self._runtime, self._outbox
        sync_routes = [route for route in routes if route.discards is None and not route.terms.is_async]
        async_routes = [route for route in routes if route.discards is None and route.terms.is_async]
        shared = (self._processor, self._concurrency, outbox)
        sync_pool = runtime.thread_pool(*shared, sync_routes, handlers_loop, runtime.monotonic)
        async_pool = runtime.loop_pool(*shared, async_routes, handlers_loop, runtime.monotonic)
        # Processing hooks run in every pool: a processor without sync handlers starts no threads.
        pools: list[Pool] = [sync_pool] if sync_routes or not async_routes else []
        pools += [async_pool] if async_routes else []
        return pools, {route: async_pool if route.terms.is_async else sync_pool for route in routes}

    def _build_stages(self) -> tuple[list[Stage], list[Stage], ParkingLot | None]:
        """Return the stages before and after routing, and the parking lot, as the handlers and the sink need them."""
        routes, sink, state, runtime = self._routes, self._sink, self._state, self._runtime
        lapses = (self._pools, self._find, runtime)
        before: list[Stage] = [
            StoredLapses(self._service, self._store, *lapses) if isinstance(sink, Store) else Lapses(*lapses)
        ]
        after: list[Stage] = []
        parking = None
        park_routes(routes, sink)
        if isinstance(sink, Store):
            before.append(AttemptCounter(self._service, self._store, runtime))
            if isinstance(self._dispatcher, IsolatingDispatcher):
                before.append(self._build_crashes(self._dispatcher))
            parking = ParkingLot(
                self._service, self._store, self._dead_letters, self._dispatcher, self._exits,
                routes, state, runtime,
            )  # fmt: skip
            self._relocation = Relocation(
                self._service,
                self._store,
                parking,
                self._dispatcher,
                self._held_jobs,
                self._exits,
                self._pools,
                state,
                runtime,
            )
            after.append(parking)
        if (leased := leased_routes(routes, sink)) and isinstance(sink, OnceStore):
            claims = IdempotencyClaims(
                self._service, self._store, sink, leased, self._concurrency, self._dispatcher, self._held_jobs,
                self._dead_letters, self._exits, state, runtime,
            )  # fmt: skip
            after.append(claims)
        if any(route.terms.once is not None for route in routes):
            after.append(DuplicateCount(state))  # the last stage concludes first: duplicates are counted before claims
        return before, after, parking

    def _build_crashes(self, dispatcher: IsolatingDispatcher) -> Crashes:
        width = max((route.terms.batch.size for route in self._routes if route.terms.batch), default=1)
        workers = len(self._pools) * self._concurrency
        return Crashes(self._service, self._store, self._pools, workers, width, dispatcher, self._find, self._runtime)

    def _build_source(self, adapter: Adapter) -> tuple[Source, Settler, Backpressure, list[Stage]]:
        """Return a source with its settler, its back-pressure, and its stages after the settler."""
        source = Source(adapter, self._runtime)
        self._state.sources.append(source)
        source.exits = self._exits
        source.settler = settler = Settler(source, self._exits, self._runtime)
        longest = max((route.terms.timeout for route in self._routes if route.discards is None), default=0.0)
        renewer = LeaseRenewer(source, self._exits, self._runtime, longest)
        backpressure = Backpressure(source, settler, self._runtime)
        if isinstance(adapter, ReplayAdapter):
            adapter.busy = self._dispatcher.busy
        if adapter.rate_limit is not None:
            self._dispatcher.limit(source, adapter.rate_limit)
        own: list[Stage] = [renewer, backpressure]
        if adapter.partitioned_by is not None:
            own.append(PlacementCheck(self._state.placements))
        if not isinstance(adapter, ReplayAdapter):
            own.append(Relief(source, self._relocation, self._runtime))
        return source, settler, backpressure, own


def check_declarations(processor: Processor[Any], sink: Sink | None, runtime: Runtime) -> None:
    """End registration. Raise `UsageError` for declarations that cannot work.

    A processor needs a handler or a discard, the sink must meet the needs of every handler, and two breakers of one
    name must be equal.
    """
    routes = processor.freeze()
    if not routes:
        raise UsageError(
            f"{processor.name} has no handler: every message would become a dead letter. Register a function with"
            " @proc.handle_for(matcher)"
        )
    leased_routes(routes, sink)
    park_routes(routes, sink)
    circuits_of(routes, runtime.monotonic, 1)
