"""`missive dlq edit`: replay a dead letter with a changed message."""

from __future__ import annotations

from pathlib import Path

import click

from missive.cli import options
from missive.cli.command import Command
from missive.cli.inputs import HEADERS_HELP, check_one_reader, read_content, read_headers
from missive.cli.output import hint, say, show_json
from missive.cli.selection import current_user, open_store
from missive.errors import UsageError
from missive.words import counted


@click.command(cls=Command)
@click.argument("record_id", metavar="ID")
@click.option("--body", metavar="FILE|-", help="A file that holds the new body.")
@click.option("--headers", metavar="FILE|-", help=f"{HEADERS_HELP} They replace the headers of these names.")
@click.option("--without-header", "dropped", multiple=True, metavar="NAME", help="A header to remove; may be repeated.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Only save the body to a new file.")
@click.option(
    "--version", type=click.IntRange(min=1), metavar="N", help="Edit only if the dead letter is at version N."
)
@options.dlq
@options.as_json
def edit(
    record_id: str,
    body: str | None,
    headers: str | None,
    dropped: tuple[str, ...],
    save: Path | None,
    version: int | None,
    dlq_url: str | None,
    as_json: bool,
) -> None:
    """Make a new dead letter with another body or other headers.

    The original stays in the store, as discarded. To edit a body, save it with --save FILE, change the file, then run
    the command that --save printed. FILE gets mode 0600. No content of either message is printed.
    """
    from missive.operations.edit import describe_edit, edit_record  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.export import save_body  # noqa: PLC0415 - as above
    from missive.operations.selection import find_record  # noqa: PLC0415 - as above

    store = open_store(dlq_url)
    record = find_record(store, record_id)
    if save is not None:
        if body or headers or dropped:
            raise UsageError("--save only saves the body: leave out --body, --headers and --without-header")
        save_body(record, save)
        hint(f"the body is in {save}, with all of its confidential content")
        say(f"after changing it, run: missive dlq edit {record.id} --body {save} --version {record.version}")
        return
    check_one_reader(body, headers)
    changes = _changes([] if headers is None else read_headers(headers), dropped)
    if body is None and not changes:
        raise UsageError("name a change: --body FILE, --headers FILE or --without-header NAME")
    new_body = None if body is None else read_content(body, "--body")
    new = edit_record(store, record.id, current_user(), body=new_body, headers=changes, version=version)
    changed = describe_edit(record, new)
    if as_json:
        show_json({"id": new.id, "edited_from": record.id, "changed": changed})
        return
    say(f"{new.id} is the edited dead letter; {record.id} is discarded")
    if changed["body"] is not None:
        before, after = changed["body"]["size"]
        say(f"body: {counted(before, 'byte')} before, {after} now")
    if changed["headers"]:
        say(f"headers: {', '.join(changed['headers'])}")
    say(f"to replay it: missive dlq replay {new.id}")


def _changes(headers: list[tuple[str, str]], dropped: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the new values of each named header: several, one, or none to remove it. Names match in any case."""
    changes: dict[str, list[str]] = {name: [] for name in dropped}
    names = {name.lower(): name for name in dropped}
    for name, value in headers:
        if name.lower() in map(str.lower, dropped):
            raise UsageError(f"--headers and --without-header both name {name}: leave one out")
        changes.setdefault(names.setdefault(name.lower(), name), []).append(value)
    return changes
