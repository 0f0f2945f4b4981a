"""The arguments of a command, rebuilt for a child process."""

from __future__ import annotations

import click
import pytest

from missive.cli import options
from missive.cli.argv import rebuild_argv


@click.command()
@click.argument("target")
@click.option("--from", "sources", multiple=True)
@options.option("--number", type=float)
@click.option("--switch/--no-switch", default=True)
@options.as_json
@options.option("--left-out")
@click.pass_context
def command(context: click.Context, **_: object) -> list[str]:
    return rebuild_argv(context, without={"left_out"})


@pytest.mark.parametrize(
    ("arguments", "rebuilt"),
    [
        (["t"], ["--", "t"]),
        (["--from", "a b", "t", "--from=-c", "--json"], ["--from", "a b", "--from", "-c", "--json", "--", "t"]),
        (["--number=2", "t", "--left-out", "x"], ["--number", "2.0", "--", "t"]),
        (["--no-switch", "t"], ["--no-switch", "--", "t"]),
        (["--switch", "--", "-t"], ["--switch", "--", "-t"]),
    ],
)
def test_arguments_are_rebuilt(arguments: list[str], rebuilt: list[str]):
    """Options come in their long form, then arguments; defaults and excluded options are left out."""
    assert command.main(arguments, standalone_mode=False) == rebuilt


def test_values_from_the_environment_are_left_out(monkeypatch: pytest.MonkeyPatch):
    """A child process inherits the environment."""
    monkeypatch.setenv("MISSIVE_NUMBER", "3")
    monkeypatch.setenv("MISSIVE_JSON", "1")
    assert command.main(["t"], standalone_mode=False) == ["--", "t"]
