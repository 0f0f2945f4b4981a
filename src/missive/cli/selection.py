"""How the commands of `missive dlq` find their store, and what they are for."""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from missive.errors import UsageError

if TYPE_CHECKING:
    from missive.dlq import Query, Status, Store
    from missive.operations import Selection

F = TypeVar("F", bound=Callable[..., Any])

STATUSES = ("dead", "parked", "queued", "resolved", "discarded", "any")
CHOOSABLE = ("dead", "queued")
"""What can be replayed or given up."""
_NAMED = 3
"""So many services are named in a question."""
CLOSED = ("resolved", "discarded", "any")
"""What can be restored: any of the two."""
PURGEABLE = ("resolved", "discarded", "dead", "any")
"""What can be deleted; any is not the dead ones."""
_SAID_TWICE = ("group", "service", "reason", "handler")
"""What there is a flag for, and a term."""


def open_named(url: str | None) -> Store:
    """Open the store that the command line, the environment or the working directory names."""
    from missive.cli.main import DEFAULT_DLQ  # noqa: PLC0415 - the two name each other
    from missive.dlq import open_store  # noqa: PLC0415 - `missive --help` stays quick

    if url is None and not Path("missive-dlq.db").exists():
        raise UsageError("say which dead letter store: --dlq sqlite:///path/to/dlq.db, or MISSIVE_DLQ")
    return open_store(url or DEFAULT_DLQ, create=False)


def filters(statuses: Sequence[str], default: str = "dead") -> Callable[[F], F]:
    """Add the options that say which records."""

    def add(command: F) -> F:
        for decorate in (
            click.option("--group", help="Only this group, by its fingerprint."),
            click.option("--service", help="Only those of this service."),
            click.option("--reason", help="Only those with this reason, such as unmatched or failed."),
            click.option("--handler", help="Only those of this handler."),
            click.option("--status", type=click.Choice(statuses), show_default=default),
        ):
            command = decorate(command)
        return command

    return add


def query_of(
    words: Sequence[str], wanted: dict[str, Any], default: str | None = "dead", anything: Sequence[Status] = ()
) -> Query:
    """Return the query that words and the options of `filters` make.

    Where nothing says a status it is the `default`; `anything` is what the status `any` means here. Raises `UsageError`
    for a word that says nothing, and for what is said twice.
    """
    from missive.dlq import Status  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq.query import parse  # noqa: PLC0415 - as above
    from missive.outcome import Reason  # noqa: PLC0415 - as above

    for word in words:
        _check_spaces(word)
    query = parse(" ".join(words), time.time())
    reason, status = wanted["reason"], wanted["status"]
    if reason is not None and reason not in set(Reason):
        raise UsageError(f"there is no reason {reason!r}: it is one of {', '.join(Reason)}")
    for name, said in (("status", query.statuses), *((name, getattr(query, name)) for name in _SAID_TWICE)):
        if wanted[name] is not None and said not in (None, ()):
            raise UsageError(f"--{name} and {name}: say the same thing: leave one out")
    query = replace(query, **{name: wanted[name] for name in _SAID_TWICE if wanted[name] is not None})
    if not query.statuses and (status := status or default):
        query = replace(query, statuses=tuple(anything) if status == "any" else (Status(status),))
    return query


def _check_spaces(word: str) -> None:
    """Refuse a term of which the shell took the quotes: its second half would be looked for as a word."""
    from missive.dlq.query import is_term  # noqa: PLC0415 - `missive --help` stays quick

    first, *others = word.split() or [""]
    if '"' not in word and is_term(first) and not all(map(is_term, others)):
        name, sign, value = re.split("([:<>])", word, maxsplit=1)
        raise UsageError(f"{word}: a value with a space in it is quoted twice: '{name}{sign}\"{value}\"'")


class QueryCommand(click.Command):
    """A command that takes a query: `-field:value`, which must not hold, is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take terms for what they are."""
        from missive.dlq.query import is_term  # noqa: PLC0415 - `missive --help` stays quick

        if any(arg.startswith("-") for arg in args) and "--" not in args:
            terms = [arg for arg in args if arg.startswith("-") and is_term(arg)]
            if terms:
                args = [*(arg for arg in args if arg not in terms), "--", *terms]
        return super().parse_args(ctx, args)


query_words = click.argument("words", metavar="[QUERY]…", nargs=-1)
names = click.argument("names", metavar="[ID|GROUP|QUERY]…", nargs=-1)


def user() -> str:
    """Return who does it: user@host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        name = f"uid {os.getuid()}"
    return f"{name}@{platform.node()}"


def choose(
    dlq_url: str | None,
    names: tuple[str, ...],
    wanted: dict[str, Any],
    what: str,
    *,
    yes: bool,
    among: Sequence[str] = CHOOSABLE,
) -> tuple[Store, Selection]:
    """Choose records by names and filters, and ask before anything is done with them.

    `among` are the statuses that they may have. Raises `UsageError` where nothing is said to choose by, or there is
    no terminal to ask on; `click.Abort` for a no.
    """
    from missive import operations  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq import Status  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq.query import is_term  # noqa: PLC0415 - as above

    words = [name for name in names if is_term(name)]
    names = tuple(name for name in names if name not in words)
    unsaid = "any" if "any" in among else "dead"
    if (
        not names
        and not words
        and not any(value for name, value in wanted.items() if name != "status" or value != unsaid)
    ):
        raise UsageError(f"say which to {what}: ids, groups, or a query such as reason:failed")
    statuses = [Status(one) for one in among if one != "any"]
    anything = () if among is STATUSES else (Status.resolved, Status.discarded)
    query = query_of(words, wanted, None if names else unsaid, anything)
    if among is not STATUSES and (wrong := set(query.statuses) - set(statuses)):
        raise UsageError(f"status:{min(wrong)}: what can be chosen to {what} is {' or '.join(statuses)}")
    store = open_named(dlq_url)
    selection = operations.select(store, names, query, statuses)
    count = len(selection.ids)
    if not count:
        click.echo(f"there is nothing among them to {what}", err=True)
    elif not yes:
        first, more = selection.services[:_NAMED], len(selection.services) - _NAMED
        letters = f"{count} dead letter{'' if count == 1 else 's'} of {', '.join(first)}"
        letters += f" and {more} more" if more > 0 else ""
        ask(f"{what} {letters}?", f"{letters} would be chosen to {what}")
    return store, selection


def ask(question: str, otherwise: str) -> None:
    """Ask on the terminal. Raises `click.Abort` for a no, `UsageError` where there is none, saying `otherwise`."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"{otherwise}: say --yes, there is no terminal to ask on")
    click.confirm(question, abort=True, err=True)
