"""`missive dlq replay`, `replays`, `cancel` and `resume`: run dead letters again, here or in the running workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from missive.cli import options
from missive.cli.command import Command
from missive.cli.logs import configure_run
from missive.cli.output import ago, hint, say, show_json, show_table
from missive.cli.selection import (
    REPLAYABLE,
    QueryCommand,
    choose,
    current_user,
    filters,
    names_and_words,
    open_store,
)
from missive.errors import MissiveError, UsageError
from missive.rates import Rate

if TYPE_CHECKING:
    from missive.app.processor import Processor
    from missive.dlq import Replay, Store

_POLL_SECONDS = 0.5
"""Poll interval for the progress of running workers, in seconds."""


@click.command(cls=QueryCommand)
@names_and_words
@options.dlq
@filters(REPLAYABLE)
@options.with_target
@options.concurrency
@click.option(
    "--canary",
    type=click.IntRange(1, options.LARGEST),
    metavar="N",
    help="Run N first, and the others only when these are resolved.",
)
@click.option("--rate", metavar="N/s", help="Maximum rate, such as 5/s or 100/min.")
@click.option(
    "--until-failures", type=click.IntRange(1, options.LARGEST), metavar="N", help="Stop after N have failed again."
)
@options.wait
@options.yes
@options.as_json
@options.factory
def replay(
    names: tuple[str, ...],
    dlq_url: str | None,
    target: str | None,
    concurrency: int | None,
    canary: int | None,
    rate: str | None,
    until_failures: int | None,
    wait: bool,
    yes: bool,
    as_json: bool,
    factory: bool,
    **given: Any,
) -> None:
    """Run dead letters through handlers again.

    Choose dead letters by id, by group or by query, such as reason:failed 'age>1h'. Nothing is published.

    With --with, they run here, through the current code of TARGET, and handled ones are resolved. Without it, they are
    queued, and the running workers of their service handle them at the pace of these options.
    """
    from missive.dlq import Replay  # noqa: PLC0415 - as above
    from missive.operations.replay import hand_over_replay, start_replay  # noqa: PLC0415 - `missive --help` stays quick

    _check_rate(rate)
    processor = None if target is None else _load(target, factory=factory)
    store, selection = choose(dlq_url, names, given, "replay", yes=yes)
    words = " ".join([*names, *(f"--{name} {value}" for name, value in given.items() if value is not None)])
    planned = Replay("", current_user(), words, processor is not None, canary, rate, until_failures, "done")
    if not selection.ids:
        if as_json:
            show_json({**planned.to_dict(), "id": None})
        return
    started = start_replay(store, selection, replace(planned, status="running"))
    if processor is None:
        hand_over_replay(store, started)
    _finish(store, started, processor, concurrency, as_json=as_json, wait=wait)


def _check_rate(rate: str | None) -> None:
    try:
        if rate is not None:
            Rate.parse(rate)
    except UsageError:
        raise UsageError(f"--rate takes messages in a time, such as 5/s or 100/min, not {rate!r}") from None


def _load(target: str, *, factory: bool) -> Processor[Any]:
    """Import a processor, with warnings of the engine and of the application on standard error."""
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    processor = load_processor(target, factory=factory)
    configure_run("WARNING", "plain", None, None)
    return processor


def _finish(
    store: Store,
    replay: Replay,
    processor: Processor[Any] | None,
    concurrency: int | None,
    *,
    as_json: bool,
    wait: bool,
) -> None:
    """Run a started replay here, wait for it, or report who runs it. Exit with 1 unless all records succeeded."""
    from missive.operations.replay import count_removed, find_replay, run_replay  # noqa: PLC0415 - `missive --help` stays quick

    if processor is None and not wait:
        _show_queued(store, find_replay(store, replay.id), as_json=as_json)
        return
    if processor is None:
        hint(
            f"waiting for the running workers of {_services(store, replay)}; after Ctrl-C, replay {replay.id} continues"
            " without this command"
        )
    with _progress(replay.total) as settled:
        if processor is None:
            done = _wait(store, replay, settled)
        else:
            done = run_replay(store, replay, processor, concurrency=concurrency, on_settled=settled)
    removed = count_removed(done)
    if as_json:
        show_json(done.to_dict())
    else:
        parts = [f"{done.resolved} resolved", f"{done.failed} failed again"]
        more = (
            (done.discarded, "discarded"),
            (done.left, "not run"),
            (removed, "removed (replayed by another command, restored or deleted)"),
        )
        parts += [f"{count} {what}" for count, what in more if count]
        say(f"{done.total} replayed: {', '.join(parts)}")
        if done.left:
            hint(f"{done.status}; to continue: missive dlq resume {done.id} --with TARGET")
    if done.failed or done.left or removed:
        sys.exit(1)


def _services(store: Store, replay: Replay) -> str:
    from missive.dlq import Query  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.outages import survive  # noqa: PLC0415 - as above

    return ", ".join(survive(lambda: store.services(Query(replay=replay.id))))


def _show_queued(store: Store, replay: Replay, *, as_json: bool) -> None:
    """Print which workers run a replay."""
    if as_json:
        show_json(replay.to_dict())
        return
    waiting = f", {replay.left} more follow at the pace of the replay" if replay.left else ""
    say(f"{replay.queued} queued for the running workers of {_services(store, replay)}{waiting}")
    hint(f"to see the progress: missive dlq replays; to stop: missive dlq cancel {replay.id}")


def _wait(store: Store, replay: Replay, settled: Callable[[int], None] | None) -> Replay:
    """Wait until running workers have finished a replay, and return it.

    Raise `MissiveError` at Ctrl-C; the replay continues without this command.
    """
    from missive.operations.replay import follow_replay  # noqa: PLC0415 - `missive --help` stays quick

    shown = 0
    try:
        for now in follow_replay(store, replay.id, _POLL_SECONDS):
            done = now.resolved + now.discarded + now.failed
            if settled is not None and done > shown:
                settled(done - shown)
            shown, replay = max(shown, done), now
    except KeyboardInterrupt:
        raise MissiveError(
            f"replay {replay.id} continues without this command; to see the progress: missive dlq replays"
        ) from None
    return replay


@click.command(cls=Command)
@options.dlq
@options.limit
@options.offset
@options.as_json
def replays(dlq_url: str | None, limit: int, offset: int, as_json: bool) -> None:
    """List replays and their results, newest first."""
    found = open_store(dlq_url).replays(limit=limit, offset=offset)
    if as_json:
        show_json([replay.to_dict() for replay in found])
        return
    columns = ("total", "queued", "resolved", "failed", "discarded", "left")
    show_table(
        ["REPLAY", "STATUS", *(name.upper() for name in columns), "STARTED", "BY", "OF"],
        [(r.id, r.status, *(getattr(r, name) for name in columns), ago(r.created_at), r.by, r.query) for r in found],
    )


@click.command(cls=Command)
@click.argument("replay_id", metavar="REPLAY")
@options.dlq
@options.as_json
def cancel(replay_id: str, dlq_url: str | None, as_json: bool) -> None:
    """Cancel a replay.

    Dead letters that did not start return to dead. Running ones finish.
    """
    from missive.operations.replay import cancel_replay  # noqa: PLC0415 - `missive --help` stays quick

    done = cancel_replay(open_store(dlq_url), replay_id)
    if as_json:
        show_json(done.to_dict())
    else:
        say(f"cancelled: {done.left} of {done.total} did not run")


@click.command(cls=Command)
@click.argument("replay_id", metavar="REPLAY")
@options.dlq
@options.with_target
@options.concurrency
@options.wait
@options.as_json
@options.factory
def resume(
    replay_id: str,
    dlq_url: str | None,
    target: str | None,
    concurrency: int | None,
    wait: bool,
    as_json: bool,
    factory: bool,
) -> None:
    """Continue a stopped, cancelled or killed replay.

    Only dead letters that did not run are run. The ones that a killed command was running become available after one
    minute.
    """
    from missive.operations.replay import resume_replay  # noqa: PLC0415 - `missive --help` stays quick

    processor = None if target is None else _load(target, factory=factory)
    store = open_store(dlq_url)
    replay = resume_replay(store, replay_id, by_command=processor is not None)
    _finish(store, replay, processor, concurrency, as_json=as_json, wait=wait)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a progress bar on a terminal. Yield the function that advances it, or None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal shows the bar
    from rich.progress import Progress  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=total)
        yield lambda count: bar.update(task, advance=count)


COMMANDS = (replay, replays, cancel, resume)
