"""`missive dlq`: look at dead letters, replay them, give them up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from missive.cli import editing, options, replaying
from missive.cli import maintenance as upkeep
from missive.cli import selection as choosing
from missive.cli.output import ago, pairs, say, show_json, show_table, when
from missive.cli.selection import CHOOSABLE, STATUSES, choose, filters, open_named, query_of, user
from missive.errors import UsageError

if TYPE_CHECKING:
    from missive.dlq.record import Record


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


@dlq.command(cls=choosing.QueryCommand)
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
        ["GROUP", "COUNT", "REASON", "LABEL", "HANDLER", "ERROR", "STATUS", "FIRST", "LAST", "7 DAYS", ""],
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
                " ".join(map(str, g.trend)),
                "regressed" if g.regressed else "",
            )
            for g in found
        ],
    )


@dlq.command("list", cls=choosing.QueryCommand)
@choosing.query_words
@options.dlq
@filters(STATUSES)
@options.limit
@options.offset
@options.as_json
def list_(words: tuple[str, ...], dlq_url: str | None, limit: int, offset: int, as_json: bool, **wanted: Any) -> None:
    """List dead letters, the newest first."""
    from missive.operations import summary  # noqa: PLC0415 - `missive --help` stays quick

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
    if rows and len(rows) == limit:
        click.echo(f"the first {limit}; more with --limit and --offset", err=True)


@dlq.command()
@click.argument("record_id", metavar="ID")
@options.dlq
@options.as_json
def show(record_id: str, dlq_url: str | None, as_json: bool) -> None:
    """Show one dead letter: why it is here, where from, its stack and history; its content masked."""
    from missive.operations import details  # noqa: PLC0415 - `missive --help` stays quick

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
        why = f": {record.closed_why}" if record.closed_why else ""
        say(f"{'closed':<10} {when(record.closed_at)} by {record.closed_by}{why}")
    if record.edited_from is not None:
        say(f"{'edited':<10} from {record.edited_from}")
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


@dlq.command(cls=choosing.QueryCommand)
@choosing.names
@options.dlq
@filters(CHOOSABLE)
@click.option("--why", metavar="TEXT", help="A word or a sentence; `show` shows it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
def discard(
    names: tuple[str, ...], dlq_url: str | None, why: str | None, yes: bool, as_json: bool, **wanted: Any
) -> None:
    """Give dead letters up: by id, by group, or by query. They stay in the store, as discarded."""
    store, selection = choose(dlq_url, names, wanted, "discard", yes=yes)
    count = store.discard(selection.ids, user(), why)
    if as_json:
        show_json({"discarded": count})
    elif selection.ids:
        say(f"{count} discarded")


for _command in (*replaying.COMMANDS, *upkeep.COMMANDS, *editing.COMMANDS):
    dlq.add_command(_command)
