"""The table of the last run: adapter, capability and case, with the versions that were there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from missive.testing.conformance.catalogue import TITLES, CaseOutcome, all_cases
from missive.transport import Capabilities


@dataclass(frozen=True, slots=True)
class Row:
    """How one case ended."""

    number: int
    outcome: CaseOutcome
    seconds: float
    duplicates: int


@dataclass(slots=True)
class Column:
    """What is known of one transport."""

    versions: str = ""
    capabilities: Capabilities = field(default_factory=Capabilities)
    rows: dict[int, Row] = field(default_factory=dict)


_columns: Final[dict[str, Column]] = {}


def enter(name: str, versions: str, capabilities: Capabilities | None, row: Row) -> None:
    """Keep the result of a case for the table."""
    column = _columns.setdefault(name, Column())
    column.versions = versions
    column.capabilities = capabilities or column.capabilities
    column.rows[row.number] = row


def render() -> str:
    """Return the table of all that was entered, as Markdown."""
    names, there = sorted(_columns), {one.number for one in all_cases()}
    lines = [
        "# Conformance of the adapters",
        "",
        "Made by `scripts/conformance-table` from a run of the suite; see [the kit](conformance.md). `passed`: proved",
        "on the real transport. `refused`: the capability is not declared, and proved refused or absent.",
        "`pending`: the kit does not have the case yet. `missing`: it has, and the case was not run.",
        "",
        _line("", names),
        _line("---", ["---"] * len(names)),
        _line("versions", [_columns[name].versions for name in names]),
    ]
    for capability in dataclasses.fields(Capabilities):
        values = [getattr(_columns[name].capabilities, capability.name) for name in names]
        lines.append(_line(f"`{capability.name}`", [str(value) for value in values]))
    for number, title in TITLES.items():
        found = [_columns[name].rows.get(number) for name in names]
        absent = CaseOutcome.missing if number in there else CaseOutcome.pending
        lines.append(_line(f"{number} {title}", [(absent if row is None else row.outcome).value for row in found]))
    return "\n".join(lines) + "\n"


def write(path: Path) -> None:
    """Write the table to a file."""
    path.write_text(render(), encoding="utf-8")


def _line(first: str, rest: list[str]) -> str:
    return f"| {' | '.join([first, *rest])} |"
