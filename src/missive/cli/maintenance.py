"""`missive dlq test`, `discard`, `restore`, `note`, `export`, `import` and `purge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from missive.cli import options
from missive.cli.command import Command
from missive.cli.output import hint, say, show_json, show_table
from missive.cli.selection import (
    CLOSED,
    PURGEABLE,
    REPLAYABLE,
    STATUSES,
    QueryCommand,
    choose,
    current_user,
    filters,
    is_term,
    names_and_words,
    open_store,
    query_of,
    query_words,
)
from missive.errors import UsageError
from missive.words import counted

_LONGEST_NOTE = 2000
"""Maximum length of a note, in characters."""


@click.command(cls=QueryCommand)
@names_and_words
@click.option("--with", "target", metavar="TARGET", required=True, help="The processor that routes them.")
@options.dlq
@filters(STATUSES)
@options.limit
@options.as_json
@options.factory
def test(
    names: tuple[str, ...],
    target: str,
    dlq_url: str | None,
    limit: int,
    as_json: bool,
    factory: bool,
    **given: Any,
) -> None:
    """Show which handler would get dead letters now.

    Choose dead letters by id, by group or by query, such as reason:failed 'age>1h'. Of several, the oldest are shown.

    Only the matchers of TARGET run; nothing changes.
    """
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.preview import preview_routes  # noqa: PLC0415 - as above

    processor = load_processor(target, factory=factory)
    store, selection = choose(dlq_url, names, given, "test", yes=True, among=STATUSES)
    rows = [preview.to_dict() for preview in preview_routes(store, selection.ids[:limit], processor)]
    if as_json:
        show_json(rows)
        return
    show_table(
        ["ID", "WAS", "HANDLER THEN", "HANDLER NOW", "REASON NOW"],
        [(r["id"], r["was"], r["handler_was"], r["handler"], r["reason"]) for r in rows],
    )
    if (left := len(selection.ids) - len(rows)) > 0:
        hint(f"{counted(left, 'dead letter')} more: see them with --limit")


@click.command(cls=QueryCommand)
@names_and_words
@options.dlq
@filters(REPLAYABLE)
@click.option("--why", metavar="TEXT", help="The reason; missive dlq show prints it.")
@options.yes
@options.as_json
def discard(
    names: tuple[str, ...], dlq_url: str | None, why: str | None, yes: bool, as_json: bool, **given: Any
) -> None:
    """Discard dead letters. They stay in the store.

    Choose dead letters by id, by group or by query, such as reason:failed 'age>1h'.
    """
    store, selection = choose(dlq_url, names, given, "discard", yes=yes)
    count = store.discard(selection.ids, current_user(), why)
    if as_json:
        show_json({"discarded": count})
    elif selection.ids:
        say(f"{count} discarded")


@click.command(cls=QueryCommand)
@names_and_words
@options.dlq
@filters(CLOSED, default="any")
@options.yes
@options.as_json
def restore(names: tuple[str, ...], dlq_url: str | None, yes: bool, as_json: bool, **given: Any) -> None:
    """Return resolved and discarded dead letters to dead.

    Choose dead letters by id, by group or by query, such as reason:failed 'age>1h'.
    """
    store, selection = choose(dlq_url, names, given, "restore", yes=yes, among=CLOSED)
    count = store.restore(selection.ids, current_user())
    if as_json:
        show_json({"restored": count})
    elif count:
        say(f"{count} restored")


@click.command(cls=QueryCommand)
@names_and_words
@click.option("--text", required=True, help="The note.")
@options.dlq
@filters(STATUSES, default="any")
@options.as_json
def note(names: tuple[str, ...], text: str, dlq_url: str | None, as_json: bool, **given: Any) -> None:
    """Add a note to dead letters.

    Choose dead letters by id, by group or by query, such as reason:failed 'age>1h'.

    missive dlq show prints the note and its author.
    """
    if not text.strip() or len(text) > _LONGEST_NOTE:
        raise UsageError(f"--text takes a text of at most {_LONGEST_NOTE} characters, and not only spaces")
    store, selection = choose(dlq_url, names, given, "note", yes=True, among=STATUSES)
    count = store.note(selection.ids, current_user(), text)
    if as_json:
        show_json({"noted": count})
    elif count:
        say(f"{count} noted")


@click.command(cls=QueryCommand)
@query_words
@options.dlq
@filters(STATUSES)
@click.option("--with-content", is_flag=True, help="Export whole records, for missive dlq import.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write to a new file of mode 0600.")
def export(words: tuple[str, ...], dlq_url: str | None, with_content: bool, output: Path | None, **given: Any) -> None:
    """Print dead letters as JSON lines, newest first.

    Content is masked, except public values. With --with-content, nothing is masked, and --output is required.
    """
    from missive.operations.export import export_records, save_lines  # noqa: PLC0415 - `missive --help` stays quick

    if with_content and output is None:
        raise UsageError("--with-content writes to a file only: add --output FILE, which gets mode 0600")
    lines = export_records(open_store(dlq_url), query_of(words, given), content=with_content)
    if output is None:
        for line in lines:
            say(line)
        return
    count = save_lines(lines, output)
    what = ", with all of their confidential content" if with_content else ""
    hint(f"{counted(count, 'dead letter')} {'is' if count == 1 else 'are'} in {output}{what}")


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@options.dlq
@click.option("--create", is_flag=True, help="Create the store if it does not exist.")
@options.as_json
def import_(file: Path, dlq_url: str | None, create: bool, as_json: bool) -> None:
    """Store the dead letters of an exported FILE.

    FILE comes from missive dlq export --with-content. Dead letters that are already in the store stay unchanged.
    """
    from missive.operations.imports import import_records  # noqa: PLC0415 - `missive --help` stays quick

    new, known = import_records(open_store(dlq_url, create=create), file)
    if as_json:
        show_json({"imported": new, "there_already": known})
    else:
        say(f"{new} imported, {known} already in the store")


@click.command(cls=QueryCommand)
@names_and_words
@options.dlq
@filters(PURGEABLE, default="any")
@options.yes
@options.as_json
def purge(names: tuple[str, ...], dlq_url: str | None, yes: bool, as_json: bool, **given: Any) -> None:
    """Delete resolved and discarded dead letters.

    Choose dead letters by id, by group or by query, such as reason:failed 'age>1h'.

    Add status:dead to delete dead ones. Parked and queued ones are never deleted.
    """
    from missive.dlq import Status  # noqa: PLC0415 - as above
    from missive.operations.purge import purge_records  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.selection import CLOSED as CLOSED_STATUSES  # noqa: PLC0415 - as above

    words = [name for name in names if is_term(name)]
    statuses = query_of(words, given, "any", CLOSED_STATUSES).statuses
    among = PURGEABLE if Status.dead in statuses else CLOSED
    store, selection = choose(dlq_url, names, given, "purge", yes=yes, among=among)
    count = purge_records(store, statuses, selection.ids)
    if as_json:
        show_json({"purged": count})
    elif selection.ids:
        say(f"{count} purged")


COMMANDS = (test, discard, restore, note, export, import_, purge)
