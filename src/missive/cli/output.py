"""How the command line shows things: tables on a terminal, plain columns in a pipe, JSON when asked."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from missive.errors import MissiveError


def show_json(value: object) -> None:
    """Print one JSON document. Raises `MissiveError` where it cannot be written."""
    _print(json.dumps(value, indent=2, default=str))


def say(text: str, *, bold: bool = False) -> None:
    """Print text; what would control a terminal, or cannot be shown there, is escaped.

    Raises `MissiveError` where it cannot be written.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    _print(_harmless(text, "\n\t").encode(encoding, "backslashreplace").decode(encoding), bold=bold)


def _print(text: str, *, bold: bool = False) -> None:
    try:
        click.secho(text, bold=bold or None)
    except BrokenPipeError:
        raise  # whoever read it has seen enough
    except OSError as error:
        raise MissiveError(f"the output cannot be written: {error.strerror}") from None


def _harmless(text: str, kept: str = "") -> str:
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, cut to the terminal's width; in a pipe, whole and separated by two spaces."""
    cells = [["" if cell is None else _harmless(str(cell)) for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[place]) for row in cells), 0) for place, column in enumerate(columns)]
    terminal = sys.stdout is not None and sys.stdout.isatty()
    limit = shutil.get_terminal_size().columns if terminal else None
    say(_line(columns, widths)[:limit], bold=True)
    for row in cells:
        say(_line(row, widths)[:limit])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def ago(at: float | None) -> str:
    """Return how long ago something was, in the largest unit that fits."""
    if at is None:
        return ""
    seconds = max(time.time() - at, 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def when(at: float | None) -> str:
    """Return a point in time, in UTC."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def pairs(values: dict[str, Any]) -> str:
    """Return public values on one line."""
    return ", ".join(f"{name}={value}" for name, value in values.items())
