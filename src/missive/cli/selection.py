"""Queries, filters and names on the command line of `missive dlq`, and the question before an operation."""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from missive.cli.command import Command
from missive.cli.output import ask, hint
from missive.errors import UsageError
from missive.words import counted

if TYPE_CHECKING:
    from missive.dlq import Query, Status, Store
    from missive.operations.selection import Selection

F = TypeVar("F", bound=Callable[..., Any])

STATUSES = ("dead", "parked", "queued", "resolved", "discarded", "any")
REPLAYABLE = ("dead", "queued")
"""Statuses of records that can be replayed or discarded."""
CLOSED = ("resolved", "discarded", "any")
"""Statuses of records that can be restored; `any` is either of the two."""
PURGEABLE = ("resolved", "discarded", "dead", "any")
"""Statuses of records that can be deleted; `any` does not include `dead`."""
_SHOWN_SERVICES = 3
"""Number of services that a question lists by name."""
_TERM_FLAGS = ("group", "service", "reason", "handler")
"""Names that are both a flag and a term of a query."""


def open_store(url: str | None, *, create: bool = False) -> Store:
    """Open the store of --dlq, of the environment or of the working directory. Raise `UsageError` without any.

    With `create`, a store that does not exist is created.
    """
    from missive.operations.stores import open_named_store  # noqa: PLC0415 - `missive --help` stays quick

    return open_named_store(url, create=create)


def filters(statuses: Sequence[str], default: str = "dead") -> Callable[[F], F]:
    """Add the options that narrow a query."""

    def add(command: F) -> F:
        for decorate in (
            click.option("--group", help="Only this group, by its fingerprint."),
            click.option("--service", help="Only this service."),
            click.option("--reason", help="Only this reason, such as unmatched or failed."),
            click.option("--handler", help="Only this handler."),
            click.option("--status", type=click.Choice(statuses), show_default=default, help="Only this status."),
        ):
            command = decorate(command)
        return command

    return add


def is_term(word: str) -> bool:
    """Return whether a word is a term of a query, such as `reason:failed`, rather than the name of a record."""
    from missive.dlq.query import is_term as is_query_term  # noqa: PLC0415 - `missive --help` stays quick

    return is_query_term(word)


def query_of(
    words: Sequence[str], given: dict[str, Any], default: str | None = "dead", any_status: Sequence[Status] = ()
) -> Query:
    """Return the query that the words and the options of `filters` form.

    `default` is the status when neither names one; `any_status` lists the statuses that `any` stands for.

    Raise `UsageError` for a word that is no term, and for a condition that is both a term and an option.
    """
    from missive.dlq import Status  # noqa: PLC0415 - `missive --help` stays quick
    from missive.dlq.query import parse  # noqa: PLC0415 - as above
    from missive.outcome import Reason  # noqa: PLC0415 - as above

    for word in words:
        _check_spaces(word)
    query = parse(" ".join(words), time.time())
    reason, status = given["reason"], given["status"]
    if reason is not None and reason not in set(Reason):
        raise UsageError(f"there is no reason {reason!r}: use one of {', '.join(Reason)}")
    for name, term in (("status", query.statuses), *((name, getattr(query, name)) for name in _TERM_FLAGS)):
        if given[name] is not None and term not in (None, ()):
            raise UsageError(f"--{name} and {name}: are the same condition: leave one out")
    query = replace(query, **{name: given[name] for name in _TERM_FLAGS if given[name] is not None})
    if not query.statuses and (status := status or default):
        query = replace(query, statuses=tuple(any_status) if status == "any" else (Status(status),))
    return query


def _check_spaces(word: str) -> None:
    """Raise `UsageError` for a term that lost its quotes to the shell: a part of its value would become a word."""
    first, *others = word.split() or [""]
    if '"' not in word and is_term(first) and not all(map(is_term, others)):
        name, sign, value = re.split("([:<>])", word, maxsplit=1)
        raise UsageError(f"{word}: quote a value with a space twice: '{name}{sign}\"{value}\"'")


class QueryCommand(Command):
    """A command that takes a query, in which `-field:value` is a negated term and not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move negated terms behind `--`, so that click does not take them for options."""
        if any(arg.startswith("-") for arg in args) and "--" not in args:
            terms = [arg for arg in args if arg.startswith("-") and is_term(arg)]
            if terms:
                args = [*(arg for arg in args if arg not in terms), "--", *terms]
        return super().parse_args(ctx, args)


query_words = click.argument("words", metavar="[QUERY]…", nargs=-1)
names_and_words = click.argument("names", metavar="[ID|GROUP|QUERY]…", nargs=-1)


def current_user() -> str:
    """Return the user who runs this command, as user@host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = f"uid {os.getuid()}"
    return f"{name}@{platform.node()}"


def choose(
    dlq_url: str | None,
    names: tuple[str, ...],
    given: dict[str, Any],
    operation: str,
    *,
    yes: bool,
    among: Sequence[str] = REPLAYABLE,
) -> tuple[Store, Selection]:
    """Select records by names, terms and options, and ask for confirmation before an operation.

    `operation` is a verb, such as "replay". `among` lists the statuses that the operation takes.

    Raise `UsageError` when no condition is given, or when there is no terminal for the question. Raise `click.Abort`
    when the answer is no.
    """
    from missive.dlq import Status  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.selection import CLOSED as CLOSED_STATUSES  # noqa: PLC0415 - as above
    from missive.operations.selection import select_records  # noqa: PLC0415 - as above

    words = [name for name in names if is_term(name)]
    names = tuple(name for name in names if name not in words)
    default = "any" if "any" in among else "dead"
    narrowed = any(value for name, value in given.items() if name != "status" or value != default)
    if not names and not words and not narrowed:
        raise UsageError(f"name the dead letters to {operation}: ids, groups, or a query such as reason:failed")
    statuses = [Status(one) for one in among if one != "any"]
    any_status = () if among is STATUSES else CLOSED_STATUSES
    query = query_of(words, given, None if names else default, any_status)
    if among is not STATUSES and (wrong := set(query.statuses) - set(statuses)):
        raise UsageError(f"status:{min(wrong)}: {operation} takes only records that are {' or '.join(statuses)}")
    store = open_store(dlq_url)
    selection = select_records(store, names, query, statuses)
    if not selection.ids:
        hint(f"no dead letter matches: there is nothing to {operation}")
    elif not yes:
        _confirm(operation, selection)
    return store, selection


def _confirm(operation: str, selection: Selection) -> None:
    """Ask before an operation. Raise `click.Abort` for a no, and `UsageError` when there is no terminal."""
    count = len(selection.ids)
    shown, more = selection.services[:_SHOWN_SERVICES], len(selection.services) - _SHOWN_SERVICES
    letters = f"{counted(count, 'dead letter')} of {', '.join(shown)}"
    letters += f" and {more} more" if more > 0 else ""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"to {operation} {letters}, add --yes: there is no terminal to ask on")
    ask(f"{operation} {letters}?")
