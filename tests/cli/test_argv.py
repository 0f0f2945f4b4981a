"""A command line once more, for another process."""

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
    ("arguments", "again"),
    [
        (["t"], ["--", "t"]),
        (["--from", "a b", "t", "--from=-c", "--json"], ["--from", "a b", "--from", "-c", "--json", "--", "t"]),
        (["--number=2", "t", "--left-out", "x"], ["--number", "2.0", "--", "t"]),
        (["--no-switch", "t"], ["--no-switch", "--", "t"]),
        (["--switch", "--", "-t"], ["--switch", "--", "-t"]),
    ],
)
def test_what_was_given_is_given_again(arguments: list[str], again: list[str]):
    """Options in their long form, repeated ones too, then what is no option; no defaults, and not what is left out."""
    assert command.main(arguments, standalone_mode=False) == again


def test_the_environment_is_not_given_again(monkeypatch: pytest.MonkeyPatch):
    """It is there in the other process anyway."""
    monkeypatch.setenv("MISSIVE_NUMBER", "3")
    monkeypatch.setenv("MISSIVE_JSON", "1")
    assert command.main(["t"], standalone_mode=False) == ["--", "t"]
