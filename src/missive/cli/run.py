"""`missive run`: handle messages in this process, or in worker processes."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from missive import _signals
from missive.cli import options
from missive.cli.argv import rebuild_argv
from missive.cli.command import RunCommand, chosen
from missive.cli.logs import announce_reveal, check_reveal, configure_run
from missive.cli.output import hint, show_json
from missive.engine.streams import flush_output
from missive.errors import MissiveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from missive.adapters.base import Adapter
    from missive.dlq import DLQ
    from missive.engine.processes.worker import Worker
    from missive.engine.report import Report


@click.command(cls=RunCommand)
@click.argument("target", required=False)
@options.sources
@options.dlq
@options.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="Handle N messages at the same time in each process.  [default: as the processor declares]",
)
@options.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run N processes, and replace processes that die.  [default: 1]",
)
@options.option(
    "--drain",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Time for running handlers to finish after a signal.  [default: 25]",
)
@options.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    help="Lowest level of Missive's log lines on standard error.",
)
@options.option(
    "--log-format",
    type=click.Choice(["plain", "json"]),
    default="plain",
    show_default=True,
    help="Form of the log lines: text, or one JSON object in each line.",
)
@options.option("--log-config", metavar="FILE", help="Configure logging from a dictConfig in TOML or JSON.")
@click.option(
    "--reveal",
    type=click.Choice(["tty", "always"]),
    help="Show texts and tracebacks of exceptions, which may quote messages: on a terminal only, or always.",
)
@click.option("--why", metavar="TEXT", help="The reason for --reveal, which is logged.")
@options.name
@options.option("--reload", "reloads", is_flag=True, help="Start again when the code changes, for development.")
@options.as_json
@options.factory
@click.pass_context
def run(
    command: click.Context,
    target: str,
    sources: tuple[str, ...],
    dlq_url: str | None,
    concurrency: int | None,
    workers: int | None,
    drain: float | None,
    log_level: str,
    log_format: str,
    log_config: str | None,
    reveal: str | None,
    why: str | None,
    name: str | None,
    reloads: bool,
    as_json: bool,
    factory: bool,
) -> int:
    """Handle messages until the input ends or a signal arrives.

    The first SIGINT or SIGTERM drains: running handlers finish and their messages are settled. The second one forces
    an immediate stop. Messages without a handler, and messages that fail, go to the dead letter store.

    Exit code: 0 when done or drained, 1 when failed or forced to stop, 2 for wrong usage.

    \b
      missive run app:proc --from file:events.jsonl
      missive run app:proc --from 'sqlite:///queue.db?queue=orders' --dlq sqlite:///dlq.db
      missive run app:proc --from 'sqlite:///queue.db?queue=orders' --dlq sqlite:///dlq.db --workers 4
      missive run app:proc --from 'rabbitmq://user:${PASSWORD}@host/vhost?queue=orders' --dlq sqlite:///dlq.db
    """  # noqa: D301 - \b is click's
    from missive.cli.target import load_adapters  # noqa: PLC0415 - `missive --help` stays quick
    from missive.engine.processes.worker import Worker  # noqa: PLC0415 - as above
    from missive.engine.report import Report  # noqa: PLC0415 - as above
    from missive.operations.stores import DEFAULT_DLQ, choose_dlq  # noqa: PLC0415 - as above

    if reloads:
        return _run_with_reload(command)
    check_reveal(reveal, why)
    worker = Worker.inherited()
    with contextlib.nullcontext() if worker is None else worker:
        adapters = load_adapters(target, sources, drain, name, factory=factory)
        configure_run(log_level.upper(), log_format, log_config, None if worker is None else worker.number)
        processor = adapters[0].processor
        if _signals.held():
            if worker is None:
                _sum_up(processor.name, Report(), as_json=as_json)
            return 0
        dlq = choose_dlq(adapters, dlq_url)
        if dlq_url is None and processor.dlq is None:
            hint(f"dead letters go to {DEFAULT_DLQ} (choose another store with --dlq)")
        if reveal is not None and worker is None:
            announce_reveal(reveal, why)
        if worker is None and workers is not None and workers > 1:
            return _run_workers(command, workers, adapters, dlq)
        report = _run_here(adapters, dlq, concurrency, worker, reveal=reveal is not None)
    if worker is None:
        _sum_up(processor.name, report, as_json=as_json)
    return 0


def _run_here(
    adapters: Sequence[Adapter], dlq: DLQ, concurrency: int | None, worker: Worker | None, *, reveal: bool
) -> Report:
    """Run in this process, which may be a worker of a supervisor."""
    from missive.dlq import open_dlq  # noqa: PLC0415 - `missive --help` stays quick
    from missive.engine import runner, uncaught  # noqa: PLC0415 - as above
    from missive.operations.start import log_start  # noqa: PLC0415 - as above
    from missive.telemetry import FailureLog, SourceLog  # noqa: PLC0415 - as above

    uncaught.install()  # until the process ends: objects that handlers leave may fail at its exit
    # Workers share their sources, and one of them reports about these.
    of_sources = [SourceLog()] if worker is None or worker.number == 1 else []
    (report,) = runner.execute(
        adapters,
        sink=open_dlq(dlq),
        concurrency=concurrency,
        watch=worker.watch if worker is not None else lambda _: log_start(adapters, dlq, concurrency, 1),
        observers=lambda: [FailureLog(reveal=reveal), *of_sources],
    )
    return report


def _run_workers(command: click.Context, count: int, adapters: Sequence[Adapter], dlq: DLQ) -> int:
    from missive.operations.workers import run_workers  # noqa: PLC0415 - one process needs no supervisor

    argv = _own_argv(command, without={"workers"})
    report, well = run_workers(argv, count, adapters, dlq, concurrency=command.params["concurrency"])
    _sum_up(adapters[0].processor.name, report, as_json=command.params["as_json"])
    return 0 if well else 1


def _run_with_reload(command: click.Context) -> int:
    from missive.operations.reload import run_with_reload  # noqa: PLC0415 - only in development

    app_dir = chosen(command, "app_dir")
    directories = {Path.cwd(), *([] if app_dir is None else [Path(app_dir)])}
    return run_with_reload(_own_argv(command, without={"reloads"}), directories, hint)


def _own_argv(command: click.Context, *, without: set[str]) -> list[str]:
    """Return the command line of this run for a child process, without some parameters."""
    return [sys.executable, "-P", "-m", "missive", "run", *rebuild_argv(command, without=without)]


def _sum_up(service: str, report: Report, *, as_json: bool) -> None:
    """Print the report of a run: JSON on standard output, or one line on standard error."""
    complete = flush_output()
    if as_json:
        show_json({"service": service, **report.to_dict()}, indent=None)
    else:
        hint(str(report))
    if not complete:
        raise MissiveError("standard output is closed: the last lines that handlers printed are lost")
