"""`missive dlq`: look at dead letters, replay them, give them up."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from missive.cli import choosing, options, upkeep
from missive.cli.choosing import CHOOSABLE, STATUSES, choose, filters, open_named, query_of, user
from missive.cli.output import ago, pairs, say, show_json, show_table, when
from missive.errors import UsageError
from missive.rates import Rate

if TYPE_CHECKING:
    from missive.dlq import Replay, Store
    from missive.dlq.record import Record
    from missive.processor import Processor


@click.group()
def dlq() -> None:
    """Dead letters: see them, replay them, give them up.

    The store is --dlq, else MISSIVE_DLQ, else missive-dlq.db in this directory. Nothing of a message is shown that
    its processor does not declare public.
    """


@dlq.command()
@options.dlq
@options.as_json
def stats(dlq_url: str | None, as_json: bool) -> None:
    """Count dead letters by service, status and reason."""
    rows = open_named(dlq_url).stats()
    if as_json:
        show_json(rows)
    else:
        show_table(
            ["SERVICE", "STATUS", "REASON", "COUNT", "OLDEST"],
            [(r["service"], r["status"], r["reason"], r["count"], ago(r["oldest_at"])) for r in rows],
        )


@dlq.command()
@choosing.query_words
@options.dlq
@filters(STATUSES)
@options.limit
@options.offset
@options.as_json
def groups(words: tuple[str, ...], dlq_url: str | None, limit: int, offset: int, as_json: bool, **wanted: Any) -> None:
    """List dead letters in groups that failed in the same way, the largest first."""
    found = open_named(dlq_url).groups(query_of(words, wanted), limit=limit, offset=offset)
    if as_json:
        show_json([{name: getattr(group, name) for name in group.__slots__} for group in found])
        return
    show_table(
        ["GROUP", "COUNT", "REASON", "LABEL", "HANDLER", "ERROR", "STATUS", "FIRST", "LAST"],
        [
            (
                g.fingerprint,
                g.count,
                g.reason,
                g.label,
                g.handler,
                g.error_type,
                g.status,
                ago(g.first_at),
                ago(g.last_at),
            )
            for g in found
        ],
    )


@dlq.command("list")
@choosing.query_words
@options.dlq
@filters(STATUSES)
@options.limit
@options.offset
@options.as_json
def list_(words: tuple[str, ...], dlq_url: str | None, limit: int, offset: int, as_json: bool, **wanted: Any) -> None:
    """List dead letters, the newest first."""
    from missive.dlq.operations import summary  # noqa: PLC0415 - `missive --help` stays quick

    rows = [
        summary(record) for record in open_named(dlq_url).query(query_of(words, wanted), limit=limit, offset=offset)
    ]
    if as_json:
        show_json(rows)
        return
    show_table(
        ["ID", "REASON", "LABEL", "HANDLER", "ERROR", "ATTEMPTS", "SIZE", "LAST", "PUBLIC"],
        [
            (
                r["id"], r["reason"], r["label"], r["handler"], r["error"], r["attempts"], r["size"],
                ago(r["last_at"]), pairs(r["public"]),
            )
            for r in rows
        ],
    )  # fmt: skip
    if len(rows) == limit:
        click.echo(f"the first {limit}; more with --limit and --offset", err=True)


@dlq.command()
@click.argument("record_id", metavar="ID")
@options.dlq
@options.as_json
def show(record_id: str, dlq_url: str | None, as_json: bool) -> None:
    """Show one dead letter: why it is here, where from, its stack and history; its content masked."""
    from missive.dlq.operations import details  # noqa: PLC0415 - `missive --help` stays quick

    store = open_named(dlq_url)
    record = store.get(record_id)
    if record is None:
        raise UsageError(f"there is no dead letter {record_id}: see missive dlq list")
    shown = details(record, store.notes(record_id))
    if as_json:
        show_json(shown)
        return
    _show_head(record, shown)
    _show_why(record)
    for one in shown["notes"]:
        say(f"{'note':<10} {when(one['at'])} by {one['by']}: {one['text']}")


def _show_head(record: Record, shown: dict[str, Any]) -> None:
    """Print what is known of a record's message, masked."""
    for name in ("id", "status", "service", "reason", "label", "handler", "error", "group", "attempts", "source"):
        if shown[name] is not None:
            say(f"{name:<10} {shown[name]}")
    say(f"{'first':<10} {when(record.first_at)}\n{'last':<10} {when(record.last_at)}")
    say(f"{'body':<10} {record.size} bytes, masked, sha256 {record.sha256[:16]}…")
    if record.closed_at is not None:
        say(f"{'closed':<10} {when(record.closed_at)} by {record.closed_by}")
    for name, value in shown["message"]["headers"].items():
        say(f"{'header':<10} {name}: {value}")
    for name, value in record.public.items():
        say(f"{'public':<10} {name} = {value}")


def _show_why(record: Record) -> None:
    """Print why a record is here: candidates, near misses, stack, history."""
    for candidate in record.candidates:
        say(f"{'candidate':<10} {candidate}")
    if record.explanation is not None:
        for one in record.explanation["considered"]:
            say(f"{'why':<10} {one['handler']}: {one['verdict']}")
            for line in one["because"]:
                say(f"{'':<12} {line}")
    for link in record.error_chain:
        say(f"{'raised':<10} {link['type']}")
        for frame in link["frames"]:
            say(f"{'':<12} {frame['file']}:{frame['line']} in {frame['function']}")
    for attempt in record.history:
        say(f"{'history':<10} {when(attempt.at)}  attempt {attempt.attempt}: {attempt.error or attempt.reason}")


@dlq.command()
@choosing.names
@options.dlq
@filters(CHOOSABLE)
@click.option("--with", "target", metavar="TARGET", help="Run them here and now through this processor.")
@options.option("--concurrency", type=click.IntRange(min=1), help="How many are handled at once.")
@click.option("--canary", type=click.IntRange(min=1), metavar="N", help="First N, and others when these are resolved.")
@click.option("--rate", metavar="N/s", help="At most so many in a time, such as 5/s or 100/min.")
@click.option("--until-failures", type=click.IntRange(min=1), metavar="N", help="Stop when N have failed.")
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
    yes: bool,
    as_json: bool,
    factory: bool,
    **wanted: Any,
) -> None:
    """Run dead letters again: by id, by group, or by query. Nothing is published.

    With --with, they run here, through today's code of TARGET, and what is handled is resolved. Without it, they
    are queued, and the running workers of their service take them up.
    """
    from missive.dlq import Replay, operations  # noqa: PLC0415 - `missive --help` stays quick

    if target is None and (canary or rate or until_failures):
        raise UsageError("--canary, --rate and --until-failures go with --with TARGET: workers take up what they can")
    _check_rate(rate)
    processor = None if target is None else _processor(target, factory=factory)
    store, selection = choose(dlq_url, names, wanted, "replay", yes=yes)
    if not selection.ids:
        return
    words = " ".join([*names, *(f"--{name} {value}" for name, value in wanted.items() if value is not None)])
    started = operations.start(
        store,
        selection,
        Replay("", user(), words, processor is not None, canary, rate, until_failures),
    )
    if processor is None:
        store.go_on(started.id)
    _carry_out(store, started, processor, concurrency, as_json=as_json)


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
    store: Store, replay: Replay, processor: Processor[Any] | None, concurrency: int | None, *, as_json: bool
) -> None:
    """Run a replay here, or say who will; exits 1 where one failed or was left."""
    from missive.dlq import operations  # noqa: PLC0415 - `missive --help` stays quick

    if processor is None:
        now = operations.found(store, replay.id)
        if as_json:
            show_json(now.to_dict())
        else:
            from missive.dlq import Query  # noqa: PLC0415 - as above

            services = ", ".join(store.services(Query(replay=replay.id)))
            say(f"{now.queued} queued: the running workers of {services} take them up")
        return
    with _progress(replay.total) as settled:
        done = operations.run(store, replay, processor, concurrency=concurrency, on_settled=settled)
    if as_json:
        show_json(done.to_dict())
    else:
        parts = [f"{done.resolved} resolved", f"{done.failed} failed again"]
        parts += [f"{count} {what}" for count, what in ((done.discarded, "discarded"), (done.left, "left")) if count]
        say(f"{done.total} replayed: {', '.join(parts)}")
        if done.left:
            click.echo(f"missive: {done.status}; to go on: missive dlq resume {done.id} --with TARGET", err=True)
    if done.failed or done.left:
        sys.exit(1)


@dlq.command()
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


@dlq.command()
@click.argument("replay_id", metavar="REPLAY")
@options.dlq
@options.as_json
def cancel(replay_id: str, dlq_url: str | None, as_json: bool) -> None:
    """Make what nobody has taken up yet of a replay dead again."""
    from missive.dlq import operations  # noqa: PLC0415 - `missive --help` stays quick

    done = operations.cancel(open_named(dlq_url), replay_id)
    if as_json:
        show_json(done.to_dict())
    else:
        say(f"cancelled: {done.left} of {done.total} are left")


@dlq.command()
@click.argument("replay_id", metavar="REPLAY")
@options.dlq
@click.option("--with", "target", metavar="TARGET", help="Run them here and now through this processor.")
@options.option("--concurrency", type=click.IntRange(min=1), help="How many are handled at once.")
@options.as_json
@options.factory
def resume(
    replay_id: str, dlq_url: str | None, target: str | None, concurrency: int | None, as_json: bool, factory: bool
) -> None:
    """Go on with a replay that was stopped, cancelled or killed: with what was not run, and nothing else.

    What a killed command had taken up is free again after a minute.
    """
    from missive.dlq import operations  # noqa: PLC0415 - `missive --help` stays quick

    processor = None if target is None else _processor(target, factory=factory)
    store = open_named(dlq_url)
    replay = operations.resume(store, replay_id, here=processor is not None)
    _carry_out(store, replay, processor, concurrency, as_json=as_json)


@dlq.command()
@choosing.names
@options.dlq
@filters(CHOOSABLE)
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
def discard(names: tuple[str, ...], dlq_url: str | None, yes: bool, as_json: bool, **wanted: Any) -> None:
    """Give dead letters up: by id, by group, or by query. They stay in the store, as discarded."""
    store, selection = choose(dlq_url, names, wanted, "discard", yes=yes)
    if not selection.ids:
        return
    count = store.discard(selection.ids, user())
    if as_json:
        show_json({"discarded": count})
    else:
        say(f"{count} discarded")


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


for _command in upkeep.COMMANDS:
    dlq.add_command(_command)
