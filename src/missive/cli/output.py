"""Output: tables cut to the terminal, plain columns in a pipe, and JSON on request."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from missive.errors import MissiveError
from missive.privacy.printing import printable


def show_json(value: object, *, indent: int | None = 2) -> None:
    """Print one JSON document, on one line without `indent`. Raise `MissiveError` when it cannot be written."""
    _print(json.dumps(value, indent=indent, default=str))


def say(text: str, *, bold: bool = False) -> None:
    """Print one line on standard output. Escape control characters and characters that the terminal cannot show.

    Raise `MissiveError` when the text cannot be written.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    _print(printable(text).encode(encoding, "backslashreplace").decode(encoding), bold=bold)


def hint_line(text: str) -> str:
    """Return a hint as a line. With `--log-format json`, another function takes this place."""
    return f"missive: {printable(text)}"


def hint(text: str, stack: str = "") -> None:
    """Print a line for the operator on standard error, if anything still reads it, and a stack below."""
    with contextlib.suppress(OSError):
        click.echo(hint_line(text), err=True)
        if stack:
            click.echo(printable(stack, "\n"), err=True)


def ask(question: str) -> None:
    """Ask a question on standard error. Raise `click.Abort` for a no."""
    click.confirm(printable(question), abort=True, err=True)


def _print(text: str, *, bold: bool = False) -> None:
    try:
        click.secho(text, bold=bold or None)
    except BrokenPipeError:
        raise  # `main` ends the command quietly
    except OSError as error:
        raise MissiveError(f"the output cannot be written: {error.strerror}") from None


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, cut to the width of the terminal. In a pipe, print whole columns, separated by two spaces."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[place]) for row in cells), 0) for place, column in enumerate(columns)]
    terminal = sys.stdout is not None and sys.stdout.isatty()
    limit = shutil.get_terminal_size().columns if terminal else None
    say(_line(columns, widths)[:limit], bold=True)
    for row in cells:
        say(_line(row, widths)[:limit])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def ago(at: float | None) -> str:
    """Return the time since `at`, in the largest unit that fits, or an empty text for None."""
    if at is None:
        return ""
    seconds = max(time.time() - at, 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def when(at: float | None) -> str:
    """Return a point in time as text, in UTC, or an empty text for None."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def pairs(values: dict[str, Any]) -> str:
    """Return names and values on one line."""
    return ", ".join(f"{name}={value}" for name, value in values.items())
