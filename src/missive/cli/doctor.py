"""`missive doctor`: is this deployment sound."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from missive.cli import options
from missive.cli.output import say, show_json

if TYPE_CHECKING:
    from missive.adapters.base import Finding

_SIGNS = {"ok": ("✓", "green"), "unknown": ("?", "blue"), "warning": ("!", "yellow"), "error": ("✗", "red")}


@click.command()
@click.argument("target")
@options.option("--from", "sources", metavar="URL", multiple=True, help="Where messages come from; may be repeated.")
@options.dlq
@options.as_json
@options.factory
@click.pass_context
def doctor(
    command: click.Context, target: str, sources: tuple[str, ...], dlq_url: str | None, as_json: bool, factory: bool
) -> int:
    """Look whether a deployment is sound: sources, timeouts, order, dead letters.

    It opens each source, consumes nothing and changes nothing. ✓ is sound, ? is for you to look at, ! works and
    will hurt, ✗ does not work or loses messages. Exit code: 0 when there is no ✗, else 1; 2 for wrong usage.

    \b
      missive doctor app:proc --from 'kafka://host:9092?topic=orders&group=billing' --dlq sqlite:///dlq.db
    """  # noqa: D301 - \b is click's
    from missive.cli.main import adapters_of  # noqa: PLC0415 - the two name each other
    from missive.operations.doctor import examine, examine_processor, examine_store  # noqa: PLC0415 - `missive --help` stays quick

    logging.getLogger("missive").setLevel(logging.CRITICAL)  # what is found is told below
    adapters = adapters_of(target, sources, None, factory=factory)
    processor = adapters[0].processor
    place = processor.dlq if dlq_url is None else dlq_url
    found = [(processor.name, examine_processor(processor) + examine_store(place, adapters))]
    found += [(adapter.url, asyncio.run(examine(adapter))) for adapter in adapters]
    if as_json:
        show_json([{"where": where, **finding._asdict()} for where, findings in found for finding in findings])
    else:
        for where, findings in found:
            _show(where, findings, color=command.color)
    return int(any(finding.level == "error" for _, findings in found for finding in findings))


def _show(where: str, findings: Iterable[Finding], *, color: bool | None) -> None:
    say(where, bold=True)
    for level, check, says in findings:
        sign, colour = _SIGNS[level]
        click.secho(f"  {sign} ", fg=colour, nl=False, color=color)
        say(f"{check}: {says}")
