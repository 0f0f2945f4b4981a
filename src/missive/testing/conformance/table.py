"""The table of the last run: the outcome of each case on each transport, with capabilities and versions."""

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


@dataclass(slots=True)
class Column:
    """The results of one transport."""

    versions: str = ""
    capabilities: Capabilities = field(default_factory=Capabilities)
    rows: dict[int, Row] = field(default_factory=dict)


_columns: Final[dict[str, Column]] = {}


def enter(name: str, versions: str, capabilities: Capabilities | None, row: Row) -> None:
    """Add the result of a case to the column `name`."""
    column = _columns.setdefault(name, Column())
    column.versions = versions
    column.capabilities = capabilities or column.capabilities
    column.rows[row.number] = row


def render() -> str:
    """Return the table of the entered results, as Markdown."""
    names, available = sorted(_columns), {one.number for one in all_cases()}
    lines = [
        "# Conformance of the adapters",
        "",
        "Compare the adapters case by case. `scripts/conformance-table` runs [the suite](conformance.md) and writes",
        "this page. The outcomes:",
        "",
        "- `passed`: the real transport proved the case.",
        "- `refused`: the adapter does not declare the capability, and the case proved the refusal.",
        "- `pending`: the kit does not have the case yet.",
        "- `missing`: the kit has the case, but the last run did not include it.",
        "",
        _line("", names),
        _line("---", ["---"] * len(names)),
        _line("versions", [_columns[name].versions for name in names]),
    ]
    for capability in dataclasses.fields(Capabilities):
        values = [getattr(_columns[name].capabilities, capability.name) for name in names]
        lines.append(_line(f"`{capability.name}`", [str(value) for value in values]))
    for number, title in TITLES.items():
        rows = [_columns[name].rows.get(number) for name in names]
        absent = CaseOutcome.missing if number in available else CaseOutcome.pending
        lines.append(_line(f"{number} {title}", [(absent if row is None else row.outcome).value for row in rows]))
    return "\n".join(lines) + "\n"


def write(path: Path) -> None:
    """Write the table to a file."""
    path.write_text(render(), encoding="utf-8")


def _line(first: str, rest: list[str]) -> str:
    return f"| {' | '.join([first, *rest])} |"
