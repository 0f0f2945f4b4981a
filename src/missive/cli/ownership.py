"""`missive dlq adopt`, `reroute` and `unstick`: whose records run, in which handler, and lanes that are stuck."""

from __future__ import annotations

import sys

import click

from missive.cli import options
from missive.cli.command import Command
from missive.cli.output import ask, hint, say, show_json
from missive.cli.selection import current_user, open_store
from missive.errors import UsageError
from missive.words import counted


@click.command(cls=Command)
@click.argument("old")
@click.argument("new")
@options.dlq
@options.yes
@options.as_json
def adopt(old: str, new: str, dlq_url: str | None, yes: bool, as_json: bool) -> None:
    """Move all records of the service OLD to the service NEW.

    The attempts, checkpoints and claims of OLD move too. Stop the workers of both services before.
    """
    from missive.operations.ownership import adopt_service, check_adoption  # noqa: PLC0415 - `--help` stays quick

    store = open_store(dlq_url)
    count = check_adoption(store, old, new)
    what = f"adopt {counted(count, 'record')} of {old} as {new}"
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(f"to {what}, add --yes: there is no terminal to ask on")
        ask(f"{what}?")
    count = adopt_service(store, old, new)
    if as_json:
        show_json({"adopted": count, "old": old, "new": new})
        return
    say(f"{count} adopted")
    hint(f"start the workers with the name {new}; workers of {new} that run now must restart")


@click.command(cls=Command)
@click.argument("record_id", metavar="ID")
@click.option("--to", "handler", metavar="HANDLER", required=True, help="The name of the handler.")
@options.dlq
@options.as_json
def reroute(record_id: str, handler: str, dlq_url: str | None, as_json: bool) -> None:
    """Assign another handler to a dead letter.

    HANDLER runs the message whatever its matcher: a parked or queued one when it is due, a dead one when it is
    replayed.
    """
    from missive.operations.ownership import reroute_record  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.views import summary  # noqa: PLC0415 - as above

    record = reroute_record(open_store(dlq_url), record_id, handler, current_user())
    if as_json:
        show_json(summary(record))
        return
    say(f"{record.id} is assigned to {record.assigned}")
    if record.status == "dead":
        hint(f"to run it: missive dlq replay {record.id}")


@click.command(cls=Command)
@click.argument("record_id", metavar="ID")
@options.dlq
@options.as_json
def unstick(record_id: str, dlq_url: str | None, as_json: bool) -> None:
    """Make a parked or queued dead letter that cannot run dead, so that its lane continues.

    ID is the first one of its lane; for another one, the error names the first.
    """
    from missive.operations.ownership import unstick_record  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.views import summary  # noqa: PLC0415 - as above

    record = unstick_record(open_store(dlq_url), record_id, current_user())
    if as_json:
        show_json(summary(record))
    else:
        say(f"{record.id} is dead, and its lane continues")


COMMANDS = (adopt, reroute, unstick)
