"""Runs in several worker processes, under a supervisor that restarts workers that die."""

from __future__ import annotations

from collections.abc import Sequence

from missive.adapters.base import Adapter
from missive.dlq import DLQ, open_dlq
from missive.engine.assembly import check_declarations
from missive.engine.ownership import register_application
from missive.engine.processes.supervisor import Supervisor, check_shareable
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.operations.start import log_start
from missive.operations.stores import DEFAULT_DLQ


def run_workers(
    argv: Sequence[str], count: int, adapters: Sequence[Adapter], dlq: DLQ, *, concurrency: int | None = None
) -> tuple[Report, bool]:
    """Run `count` worker processes, each started with `argv`, until all are done.

    Return the sum of their reports, and whether all of them were done or drained.

    Raise `UsageError` when several processes cannot share a source, or when the application must not use the store.
    Raise `StoreError` when the dead letter store cannot be opened.
    """
    check_shareable(adapters, count)
    # Open the store before any worker does: its tables are created once, and an error is reported once.
    if (sink := open_dlq(dlq)) is not None:
        try:
            for processor in {adapter.processor for adapter in adapters}:
                check_declarations(processor, sink, Runtime())
                register_application(processor, sink)
        finally:
            sink.close()
    log_start(adapters, dlq, concurrency, count)
    environment = {"MISSIVE_DLQ": DEFAULT_DLQ} if dlq == DEFAULT_DLQ else None
    supervisor = Supervisor(list(argv), count, environment=environment)
    well = supervisor.run()
    return supervisor.report, well
