"""`missive doctor`: check a deployment before it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from missive.cli import options
from missive.cli.command import Command
from missive.cli.output import say, show_json

if TYPE_CHECKING:
    from missive.adapters.base import Finding

_SIGNS = {"ok": ("✓", "green"), "unknown": ("?", "blue"), "warning": ("!", "yellow"), "error": ("✗", "red")}


@click.command(cls=Command)
@click.argument("target", required=False)
@options.sources
@options.dlq
@options.name
@options.as_json
@options.factory
@click.pass_context
def doctor(
    command: click.Context,
    target: str,
    sources: tuple[str, ...],
    dlq_url: str | None,
    name: str | None,
    as_json: bool,
    factory: bool,
) -> int:
    """Check a deployment: sources, timeouts, order, dead letters.

    The doctor opens each source. It consumes no message and changes nothing.

    \b
      ✓  sound
      ?  unknown: the transport does not report this, so check it yourself
      !  works today, but will cause problems
      ✗  does not work, or loses messages

    Exit code: 0 without any ✗, 1 otherwise, 2 for wrong usage.

    \b
      missive doctor app:proc --from 'kafka://host:9092?topic=orders&group=billing' --dlq sqlite:///dlq.db
    """  # noqa: D301 - \b is click's
    from missive.cli.target import load_adapters  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.doctor import diagnose  # noqa: PLC0415 - as above

    logging.getLogger("missive").setLevel(logging.CRITICAL)  # the findings report everything
    adapters = load_adapters(target, sources, None, name, factory=factory)
    diagnoses = diagnose(adapters, adapters[0].processor.dlq if dlq_url is None else dlq_url)
    if as_json:
        show_json([{"where": where, **finding._asdict()} for where, findings in diagnoses for finding in findings])
    else:
        for where, findings in diagnoses:
            _show(where, findings, color=command.color)
    return int(any(finding.level == "error" for _, findings in diagnoses for finding in findings))


def _show(where: str, findings: Iterable[Finding], *, color: bool | None) -> None:
    say(where, bold=True)
    for level, check, says in findings:
        sign, colour = _SIGNS[level]
        click.secho(f"  {sign} ", fg=colour, nl=False, color=color)
        say(f"{check}: {says}")
