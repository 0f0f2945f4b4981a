"""`missive dlq`, continued: change a message, and watch what comes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from missive.cli import options
from missive.cli import selection as choosing
from missive.cli.output import pairs, say, show_json, when
from missive.cli.selection import STATUSES, filters, open_named, query_of, user
from missive.errors import UsageError


@click.command()
@click.argument("record_id", metavar="ID")
@click.option("--body", type=click.Path(path_type=Path), metavar="FILE|-", help="What the body is from now on.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header's new value; again for another."
)
@click.option("--without-header", "dropped", multiple=True, metavar="NAME", help="A header to leave out.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Only write its body to a new file.")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Only if it is still at this version.")
@options.dlq
@options.as_json
def edit(
    record_id: str,
    body: Path | None,
    headers: tuple[str, ...],
    dropped: tuple[str, ...],
    save: Path | None,
    version: int | None,
    dlq_url: str | None,
    as_json: bool,
) -> None:
    """Make a new dead letter of one, with another body or other headers; the original is kept, as discarded.

    First `--save FILE`, which gets mode 0600; then, with that file changed, `--body FILE` and the version that was
    printed. Nothing of either message is printed.
    """
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick

    store = open_named(dlq_url)
    record = store.get(record_id)
    if record is None:
        raise UsageError(f"there is no dead letter {record_id}: see missive dlq list")
    if save is not None:
        if body or headers or dropped:
            raise UsageError("--save changes nothing: leave out --body and headers")
        with operations.private_file(save, binary=True) as file:
            file.write(record.body)
        click.echo(f"missive: the body is in {save}, with all that is confidential in it", err=True)
        say(f"to change it: missive dlq edit {record_id} --body {save} --version {record.version}")
        return
    changes = _changes(headers, dropped)
    if body is None and not changes:
        raise UsageError("say what to change: --body FILE, --header NAME=VALUE or --without-header NAME")
    new = operations.edit(
        store, record_id, user(), body=None if body is None else _read(body), headers=changes, version=version
    )
    changed = operations.difference(record, new)
    if as_json:
        show_json({"id": new.id, "edited_from": record_id, "changed": changed})
        return
    say(f"{new.id} is dead letter {record_id} changed, and that one is discarded")
    if changed["body"] is not None:
        before, after = changed["body"]["size"]
        say(f"body: {before} bytes before, {after} now")
    if changed["headers"]:
        say(f"headers: {', '.join(changed['headers'])}")
    say(f"to run it: missive dlq replay {new.id}")


def _changes(headers: tuple[str, ...], dropped: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the values that headers are given, by name in any case: none, one, or several."""
    changes: dict[str, list[str]] = {name: [] for name in dropped}
    names = {name.lower(): name for name in dropped}
    for header in headers:
        name, found, value = header.partition("=")
        if not found or not name:
            raise UsageError("--header is NAME=VALUE")
        if name.lower() in map(str.lower, dropped):
            raise UsageError(f"--header and --without-header both name {name}: leave one out")
        changes.setdefault(names.setdefault(name.lower(), name), []).append(value)
    return changes


def _read(path: Path) -> bytes:
    if str(path) == "-":
        if sys.stdin is None:
            raise UsageError("there is no standard input to read the body from")
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


@click.command(cls=choosing.QueryCommand)
@choosing.query_words
@options.dlq
@filters(STATUSES)
@click.option("--every", type=click.FloatRange(0.1, 86400), default=1.0, show_default=True, help="In seconds.")
@options.as_json
def watch(words: tuple[str, ...], dlq_url: str | None, every: float, as_json: bool, **wanted: Any) -> None:
    """Print dead letters as they come, until Ctrl-C; with --json a line of JSON for each."""
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick

    query = query_of(words, wanted)
    if not every > 0:
        raise UsageError("--every is a number of seconds")
    try:
        for record in operations.watch(open_named(dlq_url), query, every):
            row = operations.summary(record)
            if as_json:
                say(json.dumps(row))
            else:
                what = " ".join(str(row[name]) for name in ("reason", "label", "handler", "error") if row[name])
                say(f"{when(record.last_at)}  {record.id}  {what}  {pairs(row['public'])}".rstrip())
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(0)


COMMANDS = (edit, watch)
