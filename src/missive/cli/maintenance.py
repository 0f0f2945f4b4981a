"""`missive dlq`, continued: test, restore, note, export, import and purge dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from missive.cli import options
from missive.cli import selection as choosing
from missive.cli.output import say, show_json, show_table
from missive.cli.selection import (
    CHOOSABLE,
    CLOSED,
    PURGEABLE,
    STATUSES,
    choose,
    filters,
    open_named,
    query_of,
    user,
)
from missive.errors import UsageError

_LONGEST_NOTE = 2000

_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(cls=choosing.QueryCommand)
@choosing.names
@click.option("--with", "target", metavar="TARGET", required=True, help="The processor to ask.")
@options.dlq
@filters(CHOOSABLE)
@options.as_json
@options.factory
def test(names: tuple[str, ...], target: str, dlq_url: str | None, as_json: bool, factory: bool, **wanted: Any) -> None:
    """Say which handler would get dead letters now: by id, by group, or by query. No handler runs.

    Matchers of TARGET are asked, and nothing else of it: it changes nothing, here or elsewhere.
    """
    from missive import operations  # noqa: PLC0415 - as above
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    processor = load_processor(target, factory=factory)
    store, selection = choose(dlq_url, names, wanted, "test", yes=True)
    rows = [tried.to_dict() for tried in operations.dry_run(store, selection.ids, processor)]
    if as_json:
        show_json(rows)
        return
    show_table(
        ["ID", "WAS", "HANDLER THEN", "HANDLER NOW", "REASON NOW"],
        [(r["id"], r["was"], r["handler_was"], r["handler"], r["reason"]) for r in rows],
    )


@click.command(cls=choosing.QueryCommand)
@choosing.names
@options.dlq
@filters(CLOSED, default="any")
@_yes
@options.as_json
def restore(names: tuple[str, ...], dlq_url: str | None, yes: bool, as_json: bool, **wanted: Any) -> None:
    """Make dead letters dead again that were resolved or discarded: by id, by group, or by query."""
    store, selection = choose(dlq_url, names, wanted, "restore", yes=yes, among=CLOSED)
    count = store.restore(selection.ids, user())
    if as_json:
        show_json({"restored": count})
    elif count:
        say(f"{count} restored")


@click.command(cls=choosing.QueryCommand)
@choosing.names
@click.option("--text", required=True, help="What to write; `show` shows it.")
@options.dlq
@filters(STATUSES, default="any")
@options.as_json
def note(names: tuple[str, ...], text: str, dlq_url: str | None, as_json: bool, **wanted: Any) -> None:
    """Write a note to dead letters: by id, by group, or by query. It is shown by `show`, with who wrote it."""
    if not text.strip() or len(text) > _LONGEST_NOTE:
        raise UsageError(f"a note is some text, of at most {_LONGEST_NOTE} characters")
    store, selection = choose(dlq_url, names, wanted, "note", yes=True, among=STATUSES)
    count = store.note(selection.ids, user(), text)
    if as_json:
        show_json({"noted": count})
    elif count:
        say(f"{count} noted")


@click.command(cls=choosing.QueryCommand)
@choosing.query_words
@options.dlq
@filters(STATUSES)
@click.option("--with-content", is_flag=True, help="Whole records, bodies included, for `import`.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="A new file, of mode 0600.")
def export(words: tuple[str, ...], dlq_url: str | None, with_content: bool, output: Path | None, **wanted: Any) -> None:
    """Print dead letters as JSON lines, newest first; content is masked but for what is public.

    With --with-content nothing is masked, and the lines go to a file.
    """
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick

    if with_content and output is None:
        raise UsageError("--with-content prints nothing: say --output FILE, which is made with mode 0600")
    lines = operations.export(open_named(dlq_url), query_of(words, wanted), content=with_content)
    if output is None:
        for line in lines:
            say(line)
        return
    count = 0
    with operations.private_file(output) as file:
        for count, line in enumerate(lines, 1):  # noqa: B007 - counted
            file.write(line + "\n")
    what = ", with all that is confidential in them" if with_content else ""
    click.echo(f"missive: {count} dead letters are in {output}{what}", err=True)


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@options.dlq
@options.as_json
def import_(file: Path, dlq_url: str | None, as_json: bool) -> None:
    """Keep the dead letters of FILE, which `export --with-content` made; those that are there already are left."""
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick

    new, there = operations.import_file(open_named(dlq_url), file)
    if as_json:
        show_json({"imported": new, "there_already": there})
    else:
        say(f"{new} imported, {there} there already")


@click.command(cls=choosing.QueryCommand)
@choosing.names
@options.dlq
@filters(PURGEABLE, default="any")
@_yes
@options.as_json
def purge(names: tuple[str, ...], dlq_url: str | None, yes: bool, as_json: bool, **wanted: Any) -> None:
    """Delete dead letters for good: by id, by group, or by query; resolved and discarded ones.

    Dead ones only with status:dead, and never what waits to be taken up.
    """
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq import Status  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq.query import is_term  # noqa: PLC0415 - as above

    said = query_of([name for name in names if is_term(name)], wanted, "any", operations.CLOSED).statuses
    among = PURGEABLE if Status.dead in said else CLOSED
    store, selection = choose(dlq_url, names, wanted, "purge", yes=yes, among=among)
    count = operations.purge(store, said, selection.ids)
    if as_json:
        show_json({"purged": count})
    elif selection.ids:
        say(f"{count} purged")


COMMANDS = (test, restore, note, export, import_, purge)
