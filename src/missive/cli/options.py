"""Options that several commands share. Most can also be set by a MISSIVE_… environment variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


LARGEST = 1_000_000_000
"""Largest number that an option takes; every database can store it."""


def variable(flag: str) -> str:
    """Return the environment variable of an option, such as MISSIVE_LOG_LEVEL."""
    return "MISSIVE_" + flag.partition("/")[0].strip("-").replace("-", "_").upper()


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Declare an option that can also be set by the environment variable MISSIVE_NAME."""
    flag = next(name for name in names if name.startswith("--"))
    settings.setdefault("envvar", variable(flag))
    settings.setdefault("show_envvar", True)
    return click.option(*names, **settings)


factory = option("--factory", is_flag=True, help="TARGET is a function that returns a processor or an adapter.")
as_json = option("--json", "as_json", is_flag=True, help="Print JSON: an array for a list, an object for a summary.")
dlq = option("--dlq", "dlq_url", metavar="URL", help="The dead letter store, such as sqlite:///dlq.db.")
limit = option(
    "--limit", type=click.IntRange(0, LARGEST), default=100, show_default=True, metavar="N", help="Show at most N."
)
offset = option("--offset", type=click.IntRange(0, LARGEST), default=0, metavar="N", help="Skip the first N.")
concurrency = option(
    "--concurrency", type=click.IntRange(min=1), metavar="N", help="With --with: handle N messages at the same time."
)
sources = option("--from", "sources", metavar="URL", multiple=True, help="A source of messages; may be repeated.")
name = option("--name", metavar="NAME", help="The name of the service.  [default: as the processor declares]")
with_target = click.option("--with", "target", metavar="TARGET", help="Run them here and now through this processor.")
wait = click.option("--wait", is_flag=True, help="Without --with: wait until the workers have finished.")
yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
