"""`missive dlq`: the group of commands for dead letters, and the commands that show them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from missive.cli import edit, maintenance, options, ownership, replay
from missive.cli.command import Command, Group
from missive.cli.output import ago, hint, pairs, say, show_json, show_table, when
from missive.cli.selection import STATUSES, QueryCommand, filters, open_store, query_of, query_words
from missive.errors import UsageError
from missive.words import counted

if TYPE_CHECKING:
    from missive.dlq.record import Record


@click.group(cls=Group)
def dlq() -> None:
    """Show, replay, edit and discard dead letters.

    The store is --dlq, else MISSIVE_DLQ, else missive-dlq.db in the working directory. These commands show no message
    content, except the values that the processor of the message declared public.
    """


@dlq.command(cls=Command)
@options.dlq
@options.as_json
def stats(dlq_url: str | None, as_json: bool) -> None:
    """Count dead letters by service, status and reason."""
    rows = open_store(dlq_url).stats()
    if as_json:
        show_json(rows)
    else:
        show_table(
            ["SERVICE", "STATUS", "REASON", "COUNT", "OLDEST"],
            [(r["service"], r["status"], r["reason"], r["count"], ago(r["oldest_at"])) for r in rows],
        )


@dlq.command(cls=QueryCommand)
@query_words
@options.dlq
@filters(STATUSES)
@options.limit
@options.offset
@options.as_json
def groups(words: tuple[str, ...], dlq_url: str | None, limit: int, offset: int, as_json: bool, **given: Any) -> None:
    """List groups of dead letters with the same failure, largest first."""
    found = open_store(dlq_url).groups(query_of(words, given), limit=limit, offset=offset)
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


@dlq.command("list", cls=QueryCommand)
@query_words
@options.dlq
@filters(STATUSES)
@options.limit
@options.offset
@options.as_json
def list_(words: tuple[str, ...], dlq_url: str | None, limit: int, offset: int, as_json: bool, **given: Any) -> None:
    """List dead letters, newest first."""
    from missive.operations.views import summary  # noqa: PLC0415 - `missive --help` stays quick

    records = open_store(dlq_url).query(query_of(words, given), limit=limit, offset=offset)
    rows = [summary(record) for record in records]
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
        hint(f"these are the first {limit}: see more with --limit and --offset")


@dlq.command(cls=Command)
@click.argument("record_id", metavar="ID")
@options.dlq
@options.as_json
def show(record_id: str, dlq_url: str | None, as_json: bool) -> None:
    """Show one dead letter: its reason, origin, stack and history.

    The content of the message is masked.
    """
    from missive.operations.selection import find_record  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.views import details  # noqa: PLC0415 - as above

    store = open_store(dlq_url)
    record = find_record(store, record_id)
    shown = details(record, store.notes(record.id))
    if as_json:
        show_json(shown)
        return
    _show_head(record, shown)
    _show_why(record)
    for one in shown["notes"]:
        say(f"{'note':<10} {when(one['at'])} by {one['by']}: {one['text']}")


def _show_head(record: Record, shown: dict[str, Any]) -> None:
    """Print the identity of a record, and its masked message."""
    for name in (
        "id",
        "status",
        "service",
        "reason",
        "label",
        "handler",
        "assigned",
        "error",
        "group",
        "attempts",
        "source",
    ):
        if shown[name] is not None:
            say(f"{name:<10} {shown[name]}")
    say(f"{'first':<10} {when(record.first_at)}")
    say(f"{'last':<10} {when(record.last_at)}")
    say(f"{'body':<10} {counted(record.size, 'byte')}, masked, sha256 {record.sha256[:16]}…")
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
    """Print the causes of a dead letter: candidates, near misses, stack and history."""
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


@dlq.command(cls=QueryCommand)
@query_words
@options.dlq
@filters(STATUSES)
@click.option(
    "--every",
    type=click.FloatRange(0.1, 86400),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Poll interval.",
)
@options.as_json
def watch(words: tuple[str, ...], dlq_url: str | None, every: float, as_json: bool, **given: Any) -> None:
    """Print new dead letters until Ctrl-C.

    With --json, print one line of JSON for each.
    """
    from missive.operations.views import summary  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.watch import watch_failures  # noqa: PLC0415 - as above

    query = query_of(words, given)
    if not every > 0:
        raise UsageError("--every takes a number of seconds")
    try:
        for record in watch_failures(open_store(dlq_url), query, every):
            row = summary(record)
            if as_json:
                say(json.dumps(row))
            else:
                what = " ".join(str(row[name]) for name in ("reason", "label", "handler", "error") if row[name])
                say(f"{when(record.last_at)}  {record.id}  {what}  {pairs(row['public'])}".rstrip())
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(0)


for _command in (*replay.COMMANDS, *maintenance.COMMANDS, *ownership.COMMANDS, edit.edit):
    dlq.add_command(_command)
