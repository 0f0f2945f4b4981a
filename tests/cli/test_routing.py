"""`missive routes` and `missive explain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import ODD, Run


def test_routes_lists_handlers_and_matchers(run: Run):
    """`--json` prints one array, and a factory is called."""
    code, out, _ = run("routes", "app.py:proc", "--json")
    assert (code, [route["handler"] for route in json.loads(out)]) == (0, ["app:fine", "app:broken", "app:refused"])
    assert "Field('type', Equals('ok'))" in run("routes", "app:make", "--factory")[1]


def test_explain_names_the_handler_of_a_message(run: Run, tmp_path: Path):
    """The explanation uses the body and the headers, and shows only public values."""
    (tmp_path / "no.json").write_text('{"type": "no", "card": "4111-1111"}')
    (tmp_path / "headers").write_text("WHO: me\n\nother: a: b\n")
    code, out, _ = run("explain", "app:proc", "no.json", "--headers", "headers")
    assert (code, out.splitlines()[0]) == (0, "handled by app:refused")
    code, out, _ = run("explain", "app:proc", "no.json", "--json")
    explained = json.loads(out)
    assert (explained["handler"], explained["reason"]) == (None, "unmatched")
    assert explained["considered"][0]["handler"] == "app:refused"
    assert explained["considered"][0]["because"] == ["Header('who', Equals('me')): expected 'me', got nothing"]
    assert "expected 'ok', got 'no'" in out
    (tmp_path / "headers").write_text('{"WHO": ["me"]}')
    assert run("explain", "app:proc", "no.json", "--headers", "headers")[1].startswith("handled by app:refused")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (b"who: me\nhunter2\n", 'line 2 of headers is no header: write "name: value", or a JSON object'),
        (b'{"who": hunter2}', "headers is not valid JSON at line 1, column 9"),
        (
            b'{"who": 4711, "x": null}',
            "each value of the object in headers must be a text, or a list of texts; 2 are not",
        ),
        (b"hunter2\xff", "the text in headers is not UTF-8"),
    ],
)
def test_headers_that_cannot_be_read_are_one_line(run: Run, tmp_path: Path, headers: bytes, error: str):
    """The error names the place in the file, without content."""
    (tmp_path / "headers").write_bytes(headers)
    code, _, err = run("explain", "app:proc", "in.jsonl", "--headers", "headers")
    assert (code, err) == (2, f"missive: --headers: {error}\n")


def test_the_key_of_a_message_comes_from_a_file(run: Run, tmp_path: Path):
    """`explain` reads the key from a file, and two options cannot both read standard input."""
    (tmp_path / "app.py").write_text(
        "import missive\nfrom missive.matchers import Key\np = missive.Processor()\n"
        "p.add_handler(Key('k 1'), lambda message, context: None, name='keyed')\n"
    )
    (tmp_path / "key").write_text("k 1\n")
    assert run("explain", "app:p", "in.jsonl", "--key-file", "key")[1].startswith("handled by keyed")
    code, _, err = run("explain", "app:p", "-", "--key-file", "-")
    assert (code, err) == (2, "missive: only one option can read standard input (-): name a file for the others\n")


def test_a_message_that_cannot_be_explained_is_one_line(run: Run, tmp_path: Path):
    """A message that its class refuses, and a file that cannot be read, are errors without content."""
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    (tmp_path / "body").write_text("hunter2")
    code, _, err = run("explain", "odd:own", "body")
    assert (code, err.strip()) == (2, "missive: Own refuses this message: TypeError")
    code, _, err = run("explain", "app:proc", "/proc/self/mem")
    assert (code, err.strip()) == (2, "missive: /proc/self/mem cannot be read: Input/output error")
