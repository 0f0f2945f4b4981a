"""Printable text: it has no controls, and ordinary text stays as it is."""

from __future__ import annotations

import logging

import pytest

from missive.cli.logs import LineFormatter
from missive.cli.output import ask, hint, say
from missive.privacy.printing import printable

FOREIGN = ["\x1b[2J", "\n", "\r", "\x9b31m", "\u202e", "\u2028", "\u2066", "\x00", "\t", "\x7f", "\udc1b"]


@pytest.mark.parametrize("sign", FOREIGN)
def test_characters_that_control_a_terminal_are_escaped(sign: str):
    """Control characters, separators, bidi controls and surrogates become escapes."""
    shown = printable(f"a{sign}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")


def test_ordinary_text_stays():
    """Letters of any script, signs and spaces are not changed."""
    assert printable("Bestellung für 東京 ✓ [bold]") == "Bestellung für 東京 ✓ [bold]"


@pytest.mark.parametrize("sign", FOREIGN)
def test_every_way_to_the_terminal_escapes(sign: str, capsys: pytest.CaptureFixture[str], monkeypatch):
    """Lines, hints, questions and log lines of Missive print foreign text on one line."""
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    text = f"a{sign}b"
    say(text)
    hint(text)
    ask(text)
    record = logging.LogRecord("missive", logging.INFO, "", 1, "%s", (text,), None)
    printed = "".join(capsys.readouterr()) + LineFormatter().format(record)
    assert "".join(printed.split("\n")).isprintable()
    assert printed.count("a\\") >= 3
    assert "\nb" not in printed
