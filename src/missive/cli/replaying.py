"""`missive dlq`, continued: replay dead letters, here or in the running workers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from missive.cli import options
from missive.cli import selection as choosing
from missive.cli.output import ago, say, show_json, show_table
from missive.cli.selection import CHOOSABLE, choose, filters, open_named, user
from missive.errors import MissiveError, UsageError
from missive.rates import Rate

if TYPE_CHECKING:
    from missive.app.processor import Processor
    from missive.dlq import Replay, Store

_LOOK = 0.5
"""How often to look how far running workers are, in seconds."""


@click.command(cls=choosing.QueryCommand)
@choosing.names
@options.dlq
@filters(CHOOSABLE)
@click.option("--with", "target", metavar="TARGET", help="Run them here and now through this processor.")
@options.option("--concurrency", type=click.IntRange(min=1), help="How many are handled at once.")
@click.option(
    "--canary", type=click.IntRange(1, options.MOST), metavar="N", help="First N, and others when these are resolved."
)
@click.option("--rate", metavar="N/s", help="At most so many in a time, such as 5/s or 100/min.")
@click.option("--until-failures", type=click.IntRange(1, options.MOST), metavar="N", help="Stop when N have failed.")
@click.option("--wait", is_flag=True, help="Without --with: wait until the workers are done with them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
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
    **wanted: Any,
) -> None:
    """Run dead letters again: by id, by group, or by query. Nothing is published.

    With --with, they run here, through today's code of TARGET, and what is handled is resolved. Without it, they
    are queued, and the running workers of their service take them up, at the pace that is said here.
    """
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq import Replay  # noqa: PLC0415 - `missive --help` stays quick

    _check_rate(rate)
    processor = None if target is None else _processor(target, factory=factory)
    store, selection = choose(dlq_url, names, wanted, "replay", yes=yes)
    words = " ".join([*names, *(f"--{name} {value}" for name, value in wanted.items() if value is not None)])
    planned = Replay("", user(), words, processor is not None, canary, rate, until_failures, "done")
    if not selection.ids:
        if as_json:
            show_json({**planned.to_dict(), "id": None})
        return
    started = operations.start(store, selection, replace(planned, status="running"))
    if processor is None:
        operations.set_off(store, started)
    _carry_out(store, started, processor, concurrency, as_json=as_json, wait=wait)


def _check_rate(rate: str | None) -> None:
    try:
        if rate is not None:
            Rate.parse(rate)
    except UsageError:
        raise UsageError(f"--rate is messages in a time, such as 5/s or 100/min, and not {rate!r}") from None


def _processor(target: str, *, factory: bool) -> Processor[Any]:
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    return load_processor(target, factory=factory)


def _carry_out(
    store: Store,
    replay: Replay,
    processor: Processor[Any] | None,
    concurrency: int | None,
    *,
    as_json: bool,
    wait: bool,
) -> None:
    """Run a replay here, or wait for it, or say who will; exits 1 where one failed or was left."""
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq import Query  # noqa: PLC0415 - `missive --help` stays quick

    if processor is None and not wait:
        _leave(store, operations.found(store, replay.id), as_json=as_json)
        return
    if processor is None:
        services = ", ".join(store.services(Query(replay=replay.id)))
        click.echo(
            f"missive: waiting for running workers of {services}; Ctrl-C leaves replay {replay.id} to them", err=True
        )
    with _progress(replay.total) as settled:
        if processor is None:
            done = _wait(store, replay, settled)
        else:
            done = operations.run(store, replay, processor, concurrency=concurrency, on_settled=settled)
    gone = done.total - done.queued - done.resolved - done.failed - done.discarded - done.left
    if as_json:
        show_json(done.to_dict())
    else:
        parts = [f"{done.resolved} resolved", f"{done.failed} failed again"]
        more = (done.discarded, "discarded"), (done.left, "left"), (gone, "its no more: another's, restored or deleted")
        parts += [f"{count} {what}" for count, what in more if count]
        say(f"{done.total} replayed: {', '.join(parts)}")
        if done.left:
            click.echo(f"missive: {done.status}; to go on: missive dlq resume {done.id} --with TARGET", err=True)
    if done.failed or done.left or gone:
        sys.exit(1)


def _leave(store: Store, replay: Replay, *, as_json: bool) -> None:
    """Say who will run a replay."""
    from missive.dlq import Query  # noqa: PLC0415 - `missive --help` stays quick

    if as_json:
        show_json(replay.to_dict())
        return
    services = ", ".join(store.services(Query(replay=replay.id)))
    waiting = f", and {replay.left} wait for their turn" if replay.left else ""
    say(f"{replay.queued} queued{waiting}: the running workers of {services} take them up")
    click.echo(f"missive: to see how far: missive dlq replays; to stop: missive dlq cancel {replay.id}", err=True)


def _wait(store: Store, replay: Replay, settled: Callable[[int], None] | None) -> Replay:
    """Wait for running workers; interrupted, the replay goes on without this command."""
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick

    over = 0
    try:
        for now in operations.followed(store, replay.id, _LOOK):
            done = now.resolved + now.discarded + now.failed
            if settled is not None and done > over:
                settled(done - over)
            over, replay = max(over, done), now
    except KeyboardInterrupt:
        raise MissiveError(f"replay {replay.id} goes on without this command: missive dlq replays") from None
    return replay


@click.command()
@options.dlq
@options.limit
@options.offset
@options.as_json
def replays(dlq_url: str | None, limit: int, offset: int, as_json: bool) -> None:
    """List replays and what became of them, the newest first."""
    found = open_named(dlq_url).replays(limit=limit, offset=offset)
    if as_json:
        show_json([replay.to_dict() for replay in found])
        return
    columns = ("total", "queued", "resolved", "failed", "discarded", "left")
    show_table(
        ["REPLAY", "STATUS", *(name.upper() for name in columns), "STARTED", "BY", "OF"],
        [(r.id, r.status, *(getattr(r, name) for name in columns), ago(r.created_at), r.by, r.query) for r in found],
    )


@click.command()
@click.argument("replay_id", metavar="REPLAY")
@options.dlq
@options.as_json
def cancel(replay_id: str, dlq_url: str | None, as_json: bool) -> None:
    """Make what nobody has taken up yet of a replay dead again."""
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick

    done = operations.cancel(open_named(dlq_url), replay_id)
    if as_json:
        show_json(done.to_dict())
    else:
        say(f"cancelled: {done.left} of {done.total} are left")


@click.command()
@click.argument("replay_id", metavar="REPLAY")
@options.dlq
@click.option("--with", "target", metavar="TARGET", help="Run them here and now through this processor.")
@options.option("--concurrency", type=click.IntRange(min=1), help="How many are handled at once.")
@click.option("--wait", is_flag=True, help="Without --with: wait until the workers are done with them.")
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
    """Go on with a replay that was stopped, cancelled or killed: with what was not run, and nothing else.

    What a killed command had taken up is free again after a minute.
    """
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick

    processor = None if target is None else _processor(target, factory=factory)
    store = open_named(dlq_url)
    replay = operations.resume(store, replay_id, by_command=processor is not None)
    _carry_out(store, replay, processor, concurrency, as_json=as_json, wait=wait)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - only where somebody is watching
    from rich.progress import Progress  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=total)
        yield lambda count: bar.update(task, advance=count)


COMMANDS = (replay, replays, cancel, resume)
