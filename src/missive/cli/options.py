"""Options that several commands share; each flag is also a MISSIVE_… variable in the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


MOST = 1_000_000_000
"""What every database takes for a number."""


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Declare an option that can also be given as MISSIVE_NAME in the environment."""
    flag = next(name for name in names if name.startswith("--"))
    settings.setdefault("envvar", "MISSIVE_" + flag.partition("/")[0].strip("-").replace("-", "_").upper())
    settings.setdefault("show_envvar", True)
    return click.option(*names, **settings)


factory = option("--factory", is_flag=True, help="TARGET is a function that makes a processor or an adapter.")
as_json = option("--json", "as_json", is_flag=True, help="Print JSON: a list as one array, a summary as one object.")
dlq = option("--dlq", "dlq_url", metavar="URL", help="The dead letter store, such as sqlite:///dlq.db.")
limit = option("--limit", type=click.IntRange(0, MOST), default=100, show_default=True, help="Show at most so many.")
offset = option("--offset", type=click.IntRange(0, MOST), default=0, help="Leave out so many at the beginning.")
